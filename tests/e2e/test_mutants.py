"""`testbed mutants`: real mutants of the real programs, each with the verdict that it must have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.data import data_dir
from testbed.kmesh.reference import build_reference
from testbed.lab.wait import eventually
from testbed.mutants.subject import of_sources
from tests.conftest import ROOT, Run
from tests.machine import belongings, cgroups_of, picture

ONE = ("--only", "control-port-swapped", "-n", "1")
MORE = ("--family", "v4", "-k", "1_enrolment or 2_established")
FEW = ("--family", "v4", "-k", "enrolment")  # what is tried on each mutant here: a tenth of a second's worth


@pytest.fixture
def measured(testbed_command: Run, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Runs the command. Returns its exit code, its JSON and what it printed."""

    def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
        path = tmp_path / "out.json"
        done = testbed_command("mutants", "--json", str(path), *arguments)
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return done.returncode, found, done.stdout + done.stderr

    return run


def id_of(file: str, old: str, new: str) -> str:
    return next(
        mutant.id
        for mutant in of_sources(None).mutants
        if (mutant.file, mutant.old, mutant.new) == (file, old, new)
    )


@pytest.mark.long
def test_every_kind_of_verdict(measured: Callable[..., tuple[int, dict[str, Any], str]]) -> None:
    asked = {
        "control-port-swapped": "killed",
        "reversed-auth-tuple": "survived",  # enrolment asks for no authorization
        id_of("connect.c", "if (!storage)", "if (0==1)"): "invalid",
        id_of("include/manage.h", "__be32 remote[4];", "/*__be32 remote[4];*/"): "invalid",
        id_of("include/manage.h", "__be32 remote[4];", "__be32 remote[(4+1)];"): "equivalent",
    }
    code, found, said = measured(*(word for name in asked for word in ("--only", name)), *FEW)
    assert code == 1, said
    verdicts = {each["name"] or each["id"]: each["verdict"] for each in found["mutants"]}
    assert verdicts == asked
    reasons = " ".join(each["reason"] for each in found["mutants"])
    for words in ("connect4_prog is rejected", "does not compile", "compiles to the same code"):
        assert words in reasons
    for words in (
        "survived include/authorize.h",
        "--only reversed-auth-tuple",
        "1 picked by hand not killed",
    ):
        assert words in said
    (killed,) = (each for each in found["mutants"] if each["verdict"] == "killed")
    assert killed["by"][0]["check"].startswith("1_enrolment::")


@pytest.mark.long
@pytest.mark.parametrize(("size", "processes"), [(2, "1"), (8, "2")])
def test_a_sample(
    measured: Callable[..., tuple[int, dict[str, Any], str]], size: int, processes: str
) -> None:
    sample = ("--sample", str(size), "--seed", "4", "-n", processes)
    code, found, said = measured(*sample, "--target", "0", *MORE)
    assert code == 0, said
    assert sum(found[name] for name in ("killed", "survived", "invalid", "equivalent")) == size
    assert found["killed"] > size // 8


def test_a_file_that_cannot_be_written_is_told_before_minutes_have_gone(in_process: Run) -> None:
    done = in_process("mutants", "--json", "/nowhere/out.json", "--only", "hand-picked")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "testbed: cannot write /nowhere/out.json: ENOENT (No such file or directory)"
    )
    assert not done.stdout


@pytest.mark.long
def test_a_sample_is_reproducible(measured: Callable[..., tuple[int, dict[str, Any], str]]) -> None:
    first, second = (
        measured("--sample", "8", "--seed", "5", "-n", workers, *FEW)[1] for workers in ("1", "2")
    )
    counts = ("killed", "survived", "invalid", "equivalent")
    assert sum(first[name] for name in counts) == 8
    for found in (first, second):
        for each in found["mutants"]:
            del each["seconds"]
    assert first["mutants"] == second["mutants"]
    assert [first[name] for name in counts] == [second[name] for name in counts]


@pytest.mark.long
def test_all_shows_what_every_check_is_good_for(
    measured: Callable[..., tuple[int, dict[str, Any], str]],
) -> None:
    code, found, said = measured("--only", "control-port-swapped", "--all", *FEW)
    assert code == 0, said
    (mutant,) = found["mutants"]
    assert len(mutant["by"]) > 1
    assert set(found["matrix"]) == {each["check"] for each in mutant["by"]}
    assert found["idle"]
    assert not set(found["idle"]) & set(found["matrix"])


@pytest.mark.long
def test_without_sound_programs_there_are_no_verdicts(
    measured: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    subprocess.run(["cp", "-r", data_dir("bpf"), tmp_path / "bpf"], check=True)  # noqa: S607
    header = tmp_path / "bpf" / "include" / "manage.h"
    text = header.read_text(encoding="utf-8")
    header.write_text(text.replace("CONTROL_PORT_ENROL 929", "CONTROL_PORT_ENROL 928"), encoding="utf-8")
    code, found, said = measured("--source", str(tmp_path / "bpf"), "--sample", "1", *FEW)
    assert code == 1
    assert not found
    assert "fail on the unchanged programs" in said
    assert "1_enrolment::port_929_enrols" in said


@pytest.mark.long
def test_mutants_of_objects(measured: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path) -> None:
    objects = [word for path in build_reference(tmp_path) for word in ("--object", str(path))]
    code, found, said = measured(*objects, "--sample", "6", "--seed", "2", "--target", "0", *FEW)
    assert code == 0, said
    assert len(found["mutants"]) == 6
    assert {each["file"].partition(":")[0] for each in found["mutants"]} <= {
        "sockops.o",
        "connect.o",
        "sendmsg.o",
    }


@pytest.mark.long
def test_the_unchanged_programs_raise_no_alarm(
    measured: Callable[..., tuple[int, dict[str, Any], str]],
) -> None:
    code, found, said = measured("--false-alarms", "3", *FEW)
    assert code == 0, said
    assert "no false alarm" in said
    assert (found["runs"], found["alarms"]) == (3, [])


@pytest.fixture
def run() -> Iterator[subprocess.Popen[str]]:
    """A measurement that runs, for a while at least."""
    with subprocess.Popen(
        # whoever runs the tests in the background ignores Ctrl-C, and that is inherited
        ["env", "--default-signal=INT", sys.executable, "-m", "testbed", "mutants", *ONE],  # noqa: S607
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def child_at_work(run: subprocess.Popen[str]) -> int:
    """The child that runs the scenarios, once it has a lab."""

    def found() -> int:
        text = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="ascii")
        for child in map(int, text.split()):
            if any(path.name.startswith("lab-") for path in cgroups_of(child)):
                return child
        return 0

    return eventually(found, awaited="a child with a lab", deadline=20)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(run: subprocess.Popen[str], testbed_command: Run, number: signal.Signals) -> None:
    child = child_at_work(run)
    os.kill(child, signal.SIGSTOP)  # it holds the same while it is looked at
    eventually(lambda: " (python) T " in Path(f"/proc/{child}/stat").read_text(encoding="ascii"))
    held = belongings(child)
    run.send_signal(number)
    if number is not signal.SIGKILL:
        os.kill(child, signal.SIGCONT)
    _, said = run.communicate(timeout=50)
    assert run.returncode == (-number if number is signal.SIGKILL else 128 + number), said
    assert testbed_command("gc").returncode == 0
    assert_gone(held)


def assert_gone(held: set[str]) -> None:
    def left() -> set[str]:
        return held & set().union(*picture().values())

    eventually(lambda: not left(), awaited=lambda: f"the end of {left()}", deadline=10)


@pytest.mark.long
def test_a_run_that_is_killed_is_no_verdict(run: subprocess.Popen[str]) -> None:
    os.kill(child_at_work(run), signal.SIGKILL)
    _, said = run.communicate(timeout=50)
    assert run.returncode == 3
    assert "cannot run the scenarios on the unchanged programs: the run was killed by SIGKILL" in said
