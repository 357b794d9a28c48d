"""The exploration: the reference passes; mistakes that nobody pointed at are found, shrunk and told."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from testbed.bpf.elf.clang import compile_objects
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.program_set import ProgramSet
from testbed.data import data_dir
from testbed.errors import ExitCode, UsageError
from testbed.kmesh.explore.command import Request, run_explore
from testbed.kmesh.explore.paste import as_test
from testbed.kmesh.explore.play import Play
from testbed.kmesh.explore.run import explore
from testbed.kmesh.explore.shrink import attempt
from testbed.kmesh.explore.stage import Failure, Stage, Step, set_stage
from testbed.kmesh.history import make_history
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.oracle.oracle import ContractViolation
from testbed.kmesh.profile import Profile
from testbed.kmesh.reference import build_reference
from testbed.kmesh.subject import load_subject
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.wait import eventually
from testbed.observe.callbacks import Op
from testbed.observe.tap import Tap, TapProgram
from tests.conftest import ROOT
from tests.e2e.test_plugin import pytest_in
from tests.eras import ERAS, build_era
from tests.machine import cgroups_of

Explorer = Callable[[list[Path], int], Failure | None]


@dataclass(frozen=True)
class Mistake:
    """One replacement in the reference; the shortest program that shows it has at most so many steps."""

    file: str
    old: str
    new: str
    steps: int


MISTAKES = {
    "unwatched": Mistake("sockops.c", "\twatch_state(skops);\n\trequest", "\trequest", 3),
    "the verdict stays": Mistake("include/authorize.h", "\tverdict_remove(&tuple);", "\t;", 4),
    "removed, and reported still": Mistake(
        "include/manage.h", "\t\tmanaged_remove(&key);", "\t\tif (key.ip6[1])\n\t\t\tmanaged_remove(&key);", 2
    ),
    "mapped is not IPv4, enrolling": Mistake(
        "include/manage.h", "if (is_ipv4(skops))\n\t\tkey", "if (skops->family == FAMILY_IPV4)\n\t\tkey", 2
    ),
    "mapped is not IPv4, asking": Mistake(
        "include/authorize.h", "type = is_ipv4(skops)", "type = skops->family == FAMILY_IPV4", 3
    ),
    "closed once more": Mistake("include/observe.h", "\tstorage->connect_success = 0;\n", "", 4),
    "the first connection's start": Mistake(
        "connect.c", "\tstorage->connect_ns =", "\tif (!storage->connect_ns)\n\t\tstorage->connect_ns =", 4
    ),
    "half closed is closed": Mistake(
        "sockops.c",
        "skops->args[1] != BPF_TCP_CLOSE)",
        "(skops->args[1] != BPF_TCP_CLOSE && skops->args[1] != BPF_TCP_CLOSE_WAIT))",
        4,
    ),
    "the gateway is not exempt": Mistake(
        "include/authorize.h", " || is_peer(skops, config.pod_gateway)", "", 4
    ),
    "switched off, and reported still": Mistake(
        "include/observe.h", "if (!config.enable_monitoring)", "if (0)", 4
    ),
}
SEED, PROGRAMS = 1, 200


def mistaken(folder: Path, mistake: Mistake) -> list[Path]:
    """The reference with a mistake, as objects."""
    shutil.copytree(data_dir("bpf"), folder / "bpf")
    path = folder / "bpf" / mistake.file
    text = path.read_text(encoding="utf-8")
    assert text.count(mistake.old) == 1, f"{mistake.file} has no {mistake.old!r} any more"
    path.write_text(text.replace(mistake.old, mistake.new), encoding="utf-8")
    sources = [folder / f"bpf/{name}.c" for name in ("sockops", "connect", "sendmsg")]
    return compile_objects(sources, [folder / "bpf/include"], folder / "o")


def options(objects: list[Path]) -> list[str]:
    return [word for path in objects for word in ("--object", str(path))]


@pytest.fixture
def explorer(bench: Bench, tap_program: TapProgram, object_loader: ObjectLoader) -> Explorer:
    """Explores a set of objects by so many programs."""

    def explored(objects: list[Path], programs: int) -> Failure | None:
        with load_subject(object_loader, objects) as subject:
            make_history(bench, subject.program_set, subject.profile)
            stage = set_stage(bench, tap_program, subject.program_set, subject.profile)
            return explore(stage, SEED, programs)

    return explored


@pytest.fixture
def stage(
    bench: Bench,
    tap_program: TapProgram,
    program_set: ProgramSet,
    profile: Profile,
    history: None,  # noqa: ARG001 (it has happened)
) -> Stage:
    return set_stage(bench, tap_program, program_set, profile)


def told(failure: Failure | None) -> str:
    return f"{failure.error}\n{as_test(failure)}" if failure else ""


@pytest.mark.parametrize("programs", [8, pytest.param(25, marks=pytest.mark.long)])
def test_the_reference_keeps_the_contract(stage: Stage, programs: int) -> None:
    assert not told(explore(stage, SEED, programs))
    assert stage.journal.programs >= programs
    assert stage.journal.connections > programs


@pytest.mark.long
def test_a_seed_is_always_the_same_programs(stage: Stage) -> None:
    assert not told(explore(stage, SEED, 5))
    first = str(stage.journal)
    other = set_stage(stage.bench, stage.tap_program, stage.program_set, stage.profile)
    assert not told(explore(other, SEED, 5))
    assert str(other.journal) == first


def without_numbers(text: str) -> list[str]:
    """What is told of violations, without what is another each time."""
    return re.sub(r"-?[0-9a-f:.]*\d[0-9a-f:.]*", "#", text.partition("callbacks that fired")[0]).split()


def said_when_pasted(folder: Path, failure: Failure, objects: list[Path]) -> str:
    """What the pasted test says is violated, run by pytest on objects; nothing when it passes."""
    done = pytest_in(folder, as_test(failure), "--junitxml", "out.xml", *options(objects))
    (case,) = ET.parse(folder / "out.xml").getroot().iter("testcase")  # noqa: S314 (we wrote it)
    failed = case.find("failure")
    assert done.returncode == (failed is not None), done.stdout
    return "" if failed is None else str(failed.text)


def found_and_pasted(explorer: Explorer, folder: Path, mistake: Mistake) -> Failure:
    """The failure of a mistake, after its pasted test has failed for the same."""
    objects = mistaken(folder, mistake)
    failure = explorer(objects, PROGRAMS)
    assert failure is not None
    assert failure.is_steady
    assert len(failure.steps) <= mistake.steps, told(failure)
    pasted = said_when_pasted(folder, failure, objects)
    assert without_numbers(pasted) == without_numbers(str(failure.error))
    return failure


@pytest.mark.long
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_shrunk_and_pasted(explorer: Explorer, tmp_path: Path, name: str) -> None:
    failure = found_and_pasted(explorer, tmp_path, MISTAKES[name])
    assert as_test(failure).count("\n") <= 12
    assert said_when_pasted(tmp_path, failure, build_reference(tmp_path / "good")) == ""


@pytest.mark.long
@pytest.mark.parametrize("era", ERAS)
def test_what_an_era_lacks_is_not_asked_of_it(explorer: Explorer, tmp_path: Path, era: str) -> None:
    assert not told(explorer(build_era(era, tmp_path), 40))


def test_leaving_out_what_is_needed_is_no_program(stage: Stage) -> None:
    assert attempt(stage, (Step("accept", ("c1",)),)) is None


@pytest.fixture
def play(lab: Lab, mesh: Mesh, tap: Tap) -> Play:
    return Play(lab, mesh, tap)


@pytest.mark.topology("triangle")
def test_what_was_not_done_is_noticed(play: Play, lab: Lab, mesh: Mesh) -> None:
    """The oracle finds it in order: it goes by callbacks, and these are there."""
    mesh.manage(lab["one"].address(4))
    with pytest.raises(
        ContractViolation, match=r"managed map: due by what was done nobody, seen 10\.78\.1\.1"
    ):
        play.check()
    mesh.unmanage(lab["one"].address(4))
    with lab["two"].listen() as listener:
        lab["one"].connect(play.address("two", 4), listener.getsockname()[1]).close()
    with pytest.raises(
        ContractViolation, match="ACTIVE_ESTABLISHED callback: due by what was done 0, seen 1"
    ):
        play.check()


@pytest.mark.topology("triangle")
def test_what_was_done_and_is_not_told_is_noticed(play: Play, tap: Tap) -> None:
    with play:
        play.connect("c1", "one", "two")
        everything = list(tap)
        tap._callbacks[:] = [each for each in everything if each.op is not Op.PASSIVE_ESTABLISHED]
        with pytest.raises(
            ContractViolation, match="PASSIVE_ESTABLISHED callback: due by what was done 1, seen 0"
        ):
            play.check()
        tap._callbacks[:] = everything


@pytest.mark.topology("triangle")
def test_every_pair_of_hosts(play: Play, mesh: Mesh, family: Family) -> None:
    """A host is known by one address, whoever it connects to."""
    with play:
        for host in ("one", "two", "three"):
            play.enrol(host, family.value)
        for number, pair in enumerate([("one", "two"), ("two", "one"), ("three", "two"), ("one", "three")]):
            play.connect(f"c{number}", *pair, family.value, waypoint=number == 1)
            play.accept(f"c{number}")
            play.send(f"c{number}", "client", 100)
            play.receive(f"c{number}", "server")
        assert len(mesh.observed) == 8


def test_acts_that_make_no_sense(play: Play) -> None:
    with play:
        play.connect("c1", "client", "server")
        acts: list[Callable[[], None]] = [
            lambda: play.connect("c1", "client", "server"),
            lambda: play.close("c1", "server"),
            lambda: play.receive("c1", "client"),
            lambda: play.exempt("log_level"),
            lambda: play.close("c2", "client"),
        ]
        for act in acts:
            with pytest.raises(UsageError):
                act()


def ran(seconds: float, objects: list[Path]) -> tuple[ExitCode, str]:
    output = io.StringIO()
    code = run_explore(
        Request(seconds, 7, (Family.V4,), tuple(objects)), Console(file=output, width=120, highlight=False)
    )
    return code, output.getvalue()


def test_the_command_names_its_seed_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTBED_COMMAND", raising=False)
    code, output = ran(0.5, [])
    assert code is ExitCode.PASSED, output
    first, last = output.splitlines()
    assert first == "seed 7: testbed explore --seed 7 --seconds 0.5 --family v4"
    assert last.endswith(" connections: none failed")


@pytest.mark.long
def test_the_command_prints_the_test(tmp_path: Path) -> None:
    objects = mistaken(tmp_path, MISTAKES["unwatched"])
    code, output = ran(60, objects)
    assert code is ExitCode.FAILED
    for words in (
        "\nflags: expected STATE, seen none after: ",
        "\ndef test_found(lab, mesh, tap):\n",
        f"sudo pytest test_found.py --object {objects[0]}",
        "explore --seed 7 --family v4",
    ):
        assert words in output


def test_ctrl_c_tells_what_was_done() -> None:
    with subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "testbed", "explore"],  # noqa: S607
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        eventually(lambda: len(cgroups_of(process.pid)) > 4, awaited="a lab of the run", deadline=20)
        (cgroup, *_) = cgroups_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert errors == "testbed: interrupted; what had been run is shown above\n"
    assert output.endswith(" connections: none failed\n")
    assert not cgroup.exists()
