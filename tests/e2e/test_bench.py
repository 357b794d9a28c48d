"""`testbed bench`: real programs measured, one that is slower found, and what it says to mistakes."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from testbed.bpf.elf.clang import compile_objects
from testbed.bpf.elf.file import ObjectError
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.commands.bench import bench
from testbed.cost.contender import parse_contenders
from testbed.cost.counters import enable_statistics, runs_of
from testbed.cost.marks import Marks
from testbed.cost.play import Nobody
from testbed.cost.result import Kind, Request, Result
from testbed.cost.run import run_bench
from testbed.cost.traffic import BATCH, Traffic
from testbed.errors import ExitCode, ProgramError, TestbedError, UsageError
from testbed.kmesh.reference import reference_sources
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.observe.callbacks import Op
from testbed.topology.load import load_topology
from tests.conftest import ROOT
from tests.objects import AT_SOCKET, COUNTER, compiled_all, nothing_left

# So that nothing but what is slower by far is one, whatever else the machine does.
GROSS = 3.0
BUSY = "	for (int i = 0; i < 2000; i++)\n		bpf_ktime_get_ns();\n"
WATCH = """
SEC("sockops") int watch(struct bpf_sock_ops *skops)
{
	counted(0);
	if (skops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		bpf_sock_ops_cb_flags_set(skops, BPF_SOCK_OPS_STATE_CB_FLAG);
		%s
	}
	return 1;
}
"""
TEXTS = {
    "slow": COUNTER + WATCH % BUSY,
    "plain": COUNTER
    + WATCH % ""
    + """
SEC("sockops") int second(struct bpf_sock_ops *skops) { return 1; }
SEC("cgroup/connect4") int look(struct bpf_sock_addr *ctx) { return 1; }
""",
    "refuses": """
SEC("sockops") int watch(struct bpf_sock_ops *skops) { return 1; }
SEC("cgroup/connect4") int refuse(struct bpf_sock_addr *ctx) { return 0; }
""",
    "elsewhere": AT_SOCKET % "elsewhere" + "{ return 1; }",
    "rejected": COUNTER
    + """
SEC("sockops") int watch(struct bpf_sock_ops *skops)
{
	__u32 nine = 9;
	__u64 *value = bpf_map_lookup_elem(&count, &nine);

	*value += 1;
	return 1;
}
""",
}


@dataclass(frozen=True)
class Objects:
    """Two builds of the reference, the second with a loop in one callback; and small programs by name."""

    calm: Path
    busy: Path
    small: dict[str, Path]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    folder = tmp_path_factory.mktemp("objects")
    sources = reference_sources()
    edited = shutil.copytree(sources.sources[0].parent, folder / "bpf")
    text = (edited / "sockops.c").read_text(encoding="utf-8")
    assert text.count("	observe_inbound(") == 1
    (edited / "sockops.c").write_text(
        text.replace("	observe_inbound(", f"{BUSY}	observe_inbound("), "utf-8"
    )
    compile_objects(sources.sources, sources.include, folder / "calm")
    compile_objects((edited / "sockops.c",), (edited / "include",), folder / "busy")
    for name in ("connect.o", "sendmsg.o"):
        shutil.copy(folder / "calm" / name, folder / "busy")
    return Objects(folder / "calm", folder / "busy", compiled_all(folder, TEXTS))


def measured(*texts: object, rounds: int = 8, passes: int = 2, family: Family = Family.V4) -> Result:
    request = Request(BATCH, rounds, passes, family, GROSS)
    with nothing_left():
        return run_bench(
            parse_contenders([str(each) for each in texts]), "", LoadOptions(), request, lambda: None
        )


def test_a_slower_callback_is_found_and_the_same_object_is_not_slower(objects: Objects) -> None:
    result = measured(objects.calm, objects.calm, objects.busy)
    found = {
        (each.after, each.row.kind, each.row.name): each
        for each in result.regressions()
        if each.row.kind is not Kind.VERIFIED  # of how many depends on the compiler
    }
    assert set(found) == {
        ("C", Kind.BPF, "all programs"),
        ("C", Kind.PROGRAM, "sockops_prog"),
        ("C", Kind.CALLBACK, "PASSIVE_ESTABLISHED"),
    }
    assert found["C", Kind.CALLBACK, "PASSIVE_ESTABLISHED"].ratio.low > GROSS
    verified = {row.name: row.values for row in result.rows if row.kind is Kind.VERIFIED}
    assert list(verified) == ["sockops_prog", "connect4_prog", "connect6_prog", "sendmsg_prog"]
    assert all(values["A"] == values["B"] for values in verified.values())
    assert verified["sockops_prog"]["C"][0][0] > verified["sockops_prog"]["A"][0][0]
    assert result.notes == ()
    assert all(0.7 < part < 1.4 for part in result.sums.values())
    runs = {row.name: row.runs["A"] for row in result.rows if row.kind in {Kind.PROGRAM, Kind.CALLBACK}}
    # 2 control connects and a listener a batch; every fourth connection by a waypoint
    assert runs["sendmsg_prog"] == 0.25
    assert runs["PASSIVE_ESTABLISHED"] == runs["ACTIVE_ESTABLISHED"] == 1
    assert runs["connect4_prog"] == runs["TCP_CONNECT"] == 1 + 2 / BATCH
    assert runs["TCP_LISTEN"] == 1 / BATCH
    assert runs["STATE"] > 3
    assert "connect6_prog" not in runs


def test_any_sockops_program(objects: Objects) -> None:
    result = measured(objects.small["plain"], passes=1, family=Family.MAPPED)
    (contender,) = result.contenders
    assert contender.profile is None
    assert contender.keys == {"sockops watch": "watch", "sockops second": "second", "cgroup/connect4": "look"}
    rows = {(row.kind, row.name): row for row in result.rows}
    runs = rows[Kind.PROGRAM, "watch"].runs["A"]
    assert runs == rows[Kind.PROGRAM, "second"].runs["A"]
    callbacks = sum(row.runs["A"] for row in result.rows if row.kind is Kind.CALLBACK)
    assert callbacks == pytest.approx(runs)
    assert rows[Kind.PROGRAM, "look"].runs["A"] == 1
    assert rows[Kind.RATE, "connections/s"].figures["A"].median > 100
    assert any("2 sockops programs" in note for note in result.notes)
    assert contender.sizes["sockops second"].verified in {0, 2}


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("refuses", TestbedError, r"make connections through A \(.*refuses.o\): EPERM"),
        ("elsewhere", ProgramError, "there is no sockops program in it"),
        ("rejected", ProgramError, r"load watch \(sockops\): EACCES.*"),
    ],
)
def test_what_cannot_be_measured(
    objects: Objects,
    name: str,
    kind: type[TestbedError],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(kind, match=words) as raised:
        measured(objects.small[name], passes=1)
    assert raised.value.exit_code == ExitCode.CANNOT_RUN


def test_marks_count_what_the_kernel_counts() -> None:
    """By a program that does nothing, each callback and no other."""
    with ExitStack() as stack:
        marks = stack.enter_context(Marks(stack.enter_context(ObjectLoader())))
        lab = stack.enter_context(Lab(stack.enter_context(Bench()), load_topology("pair")))
        traffic = Traffic(lab, Family.V6, Nobody(), "of a test")
        traffic.batch()
        assert marks.read() == ({}, 0)
        assert enable_statistics(stack) == ""
        marks.attach(lab, stack)
        fd = marks.attach_nothing(lab, stack)
        traffic.batch()
        callbacks, lost = marks.read()
        assert lost == 0
        assert {Op(op): runs.times for op, runs in callbacks.items()} == {
            Op.TIMEOUT_INIT: 2 * BATCH,
            Op.RWND_INIT: 2 * BATCH,
            Op.TCP_CONNECT: BATCH,
            Op.ACTIVE_ESTABLISHED: BATCH,
            Op.PASSIVE_ESTABLISHED: BATCH,
            Op.NEEDS_ECN: 2 * BATCH,
            Op.TCP_LISTEN: 1,
        }
        assert runs_of(fd).times == sum(runs.times for runs in callbacks.values())
        assert runs_of(fd).ns > 0


def command(*arguments: str) -> tuple[int, str, BaseException | None]:
    """The command as `testbed.cli` has it: its exit code, output and error."""
    app = typer.Typer()
    app.command()(bench)
    done = CliRunner(env={"COLUMNS": "100"}).invoke(app, arguments)
    return done.exit_code, done.output, done.exception


def test_the_command(objects: Objects, tmp_path: Path) -> None:
    written = tmp_path / "result.json"
    short = ("--connections", "1", "--rounds", "8", "--passes", "1", "--threshold", "300")
    sets = (
        "--object",
        str(objects.small["plain"]),
        "--object",
        f"{objects.small['slow']},{objects.calm}/connect.o",
    )
    code, output, _ = command(*short, *sets, "--json", str(written))
    assert code == ExitCode.FAILED, output
    assert re.search(r"^  PASSIVE_ESTABLISHED +1\.00 × ", output, re.MULTILINE)
    assert re.search(
        r"^regression, B against A: PASSIVE_ESTABLISHED: \+[\d,]+ % ns a run \(", output, re.MULTILINE
    )
    assert "8 rounds of 32 connections of each set, in v4, in turn; loaded once" in output
    data: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    assert "PASSIVE_ESTABLISHED" in {each["name"] for each in data["regressions"]}
    assert len(data["sets"]["B"]["objects"]) == 2


@pytest.mark.long
def test_the_reference_alone() -> None:
    code, output, _ = command("--connections", "1", "--rounds", "8", "--passes", "1")
    assert code == ExitCode.PASSED, output
    assert "A  programs  the reference in bpf/: sockops_prog, connect4_prog" in output
    assert re.search(r"^   without   [\d,]+ connections/s ±", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--object nowhere.o", "read the object nowhere.o: ENOENT"),
        ("--object testbed/cli.py", "it is not an ELF file"),
        ("--object bpf", "there is no object"),
        ("--object x.o,", "is empty"),
        ("--object=", "is empty"),
        ("--abi main", "use --abi: it is about objects"),
        ("--tail-call calls:0=parse", "use --tail-call"),
        ("--object x.o --inner-map x", "read --inner-map"),
        ("--family v5", "'v5' is no family: choose one of v4, v6"),
        ("--json /nowhere/x", "write /nowhere/x: "),
    ],
)
def test_what_makes_no_sense(arguments: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, output, error = command(*arguments.split())
    assert isinstance(error, UsageError | ObjectError), output
    assert error.exit_code == ExitCode.USAGE
    assert re.search(message, str(error))


def test_an_era_that_the_set_is_not(objects: Objects) -> None:
    _, output, error = command("--object", str(objects.small["plain"]), "--abi", "v0.3")
    assert isinstance(error, UsageError), output
    assert str(error).startswith(f"measure {objects.small['plain']} as Kmesh v0.3.x: the set has no map ")


def test_too_few_rounds_are_refused() -> None:
    assert command("--rounds", "7")[0] == ExitCode.USAGE
