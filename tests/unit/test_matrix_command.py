"""`testbed matrix` and `testbed bisect`: their options, and what is told before anything boots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from testbed.commands import bisect as bisect_command
from testbed.commands import matrix as matrix_command
from testbed.errors import TestbedError, UsageError
from testbed.matrix import command
from testbed.matrix.bisect import versions_of
from testbed.matrix.command import Request
from testbed.matrix.kernels import choose, wanted
from testbed.matrix.request import Subject

OFFERED = ["5.10.220-1", "6.1.90-1", "6.5.13-1", "6.12.30-1", "7.2.3-1", "7.3~rc7-1"]


def exact(name: str) -> str:
    """What a name means in an archive that has these."""
    return next(version for version in OFFERED if version.startswith(name))


def app() -> typer.Typer:
    made = typer.Typer()
    made.command(cls=matrix_command.Command)(matrix_command.matrix)
    made.command()(bisect_command.bisect)
    return made


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app(), list(arguments))


@pytest.mark.parametrize("arguments", [["--list", "--json"], ["--json", "--list"]])
def test_what_ci_reads(arguments: list[str]) -> None:
    done = run("matrix", *arguments, "--kernel", "5.10", "--kernel", "7.2")
    assert (done.exit_code, done.output) == (0, '{"include": [{"kernel": "5.10"}, {"kernel": "7.2"}]}\n')


def test_the_list_can_go_into_a_file(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    done = run("matrix", "--list", "--json", str(file), "--kernel", "5.10")
    assert (done.exit_code, done.output) == (0, "")
    assert file.read_text(encoding="utf-8") == '{"include": [{"kernel": "5.10"}]}\n'


def test_kernels_of_a_matrix() -> None:
    every = ["5.10", "6.1", "6.5", "6.12", "7.2", "7.3"]
    assert wanted([], everything=False, offered=lambda: OFFERED) == ["5.10", "6.1", "6.12", "7.3"]
    assert wanted([], everything=True, offered=lambda: OFFERED) == every
    assert wanted(["7.2", "6.1", "7.2"], everything=False, offered=list) == ["7.2", "6.1"]
    with pytest.raises(UsageError, match="--kernel with --all"):
        wanted(["6.1"], everything=True)


def test_json_without_a_file_is_for_the_list() -> None:
    assert run("matrix", "--json").exit_code == 2
    assert run("matrix", "--list", "--nothing").exit_code == 2


def test_columns_are_oldest_first(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.touch()
    assert [each.label for each in choose(["7.2", "5.10", "6.12"], exact)] == ["5.10", "6.12", "7.2"]
    assert choose(["7.3"], exact)[0].kernel == "7.3~rc7-1"
    assert [each.label for each in choose([str(image), "5.10"], exact)] == ["bzImage", "5.10"]
    with pytest.raises(UsageError, match="no such file"):
        choose(["/no/such/bzImage"])
    with pytest.raises(UsageError, match="two of them are called bzImage"):
        choose([str(image), f"{tmp_path}/./bzImage"])


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (Subject(family="v5"), "'v5' is no family"),
        (Subject(expression="no_such_thing"), "there is none"),
        (Subject(objects=(Path("a/x.o"), Path("b/x.o"))), "one name"),
        (Subject(objects=(Path("/no/such.o"),)), "such.o"),
        (Subject(abi=__file__), "guests know the eras alone"),
        (Subject(tail_calls=("a:0=b",)), "--object names none"),
    ],
)
def test_what_makes_no_sense_is_told_before_a_guest_boots(subject: Subject, message: str) -> None:
    with pytest.raises(TestbedError, match=message):
        subject.validate()


def test_a_cell_has_all_that_a_worker_needs(tmp_path: Path) -> None:
    file = tmp_path / "sockops.o"
    file.write_bytes(b"ELF")
    subject = Subject(objects=(file,), family="v4", expression="close", modules=tmp_path)
    cell = subject.cell("6.1", "6.1.90-1")
    assert (cell.objects, cell.modules) == ((("sockops.o", b"ELF"),), None)
    assert (cell.selection.families, cell.selection.expression) == ("v4", "close")
    assert subject.cell("own", "/boot/own").modules == tmp_path


def test_a_bisection_goes_either_way() -> None:
    def between(first: str, last: str) -> list[str]:
        return OFFERED[OFFERED.index(first) : OFFERED.index(last) + 1]

    assert versions_of("6.1", "6.12", exact, between) == OFFERED[1:4]
    assert versions_of("6.12", "6.1", exact, between) == OFFERED[3:0:-1]
    with pytest.raises(UsageError, match="are both"):
        versions_of("6.1", "6.1.90", exact, between)


@pytest.mark.parametrize("arguments", [(), ("-k", "close", "--run", "true")])
def test_a_bisection_is_of_scenarios_or_of_a_command(arguments: tuple[str, ...]) -> None:
    done = run("bisect", "--good", "6.1", "--bad", "6.12", *arguments)
    assert isinstance(done.exception, UsageError)


def test_free_memory_is_known() -> None:
    assert 1 << 24 < command._free_memory() < 1 << 50


def test_a_list_needs_nothing_else() -> None:
    assert command.list_kernels(Request(("5.10",)), as_json=False) == "5.10"
