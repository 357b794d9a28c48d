"""A capsule runs its scenario again: with a broken set it fails, with a good one not. And who may see it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.bpf.elf.clang import compile_objects
from testbed.capsule.collect import collect, current_sources, write_capsule
from testbed.capsule.contents import read_capsule
from testbed.capsule.model import Material, Scenario
from testbed.lab.wait import eventually
from testbed.runs.archive import pack
from testbed.runs.model import info_now
from tests.conftest import ROOT, Run
from tests.e2e.test_cli import NOBODY
from tests.machine import cgroups_of
from tests.stories import failed

NODEID = "test_4_close.py::test_exactly_four_records_and_one_request[v4]"
BROKEN_LINE = ("sockops.c", "\twatch_state(skops);\n", "")  # nobody is told of the client's close
Objects = tuple[tuple[str, bytes], ...]
Edit = Callable[[str, str, str], Path]


def material(nodeid: str = NODEID, objects: Objects = (), **scenario: object) -> Material:
    chosen = Scenario(nodeid, **{"family": "v4", **scenario})  # type: ignore[arg-type]
    return Material(failed(), chosen, info_now(["testbed", "check"], "the set"), objects=objects)


def broken_sources() -> dict[str, bytes]:
    name, old, new = BROKEN_LINE
    sources = current_sources()
    assert old.encode() in sources[name], "the line that is to be broken is no more"
    return {**sources, name: sources[name].replace(old.encode(), new.encode(), 1)}


def built(folder: Path, sources: dict[str, bytes]) -> Objects:
    root = folder / "bpf"
    for name, data in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    programs = [root / f"{name}.c" for name in ("sockops", "connect", "sendmsg")]
    objects = compile_objects(programs, (root / "include",), folder / "objects")
    return tuple((path.name, path.read_bytes()) for path in objects)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capsule with the objects of the broken set."""
    folder = tmp_path_factory.mktemp("broken")
    return write_capsule(folder, material(objects=built(folder, broken_sources())))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capsule with the sources as they are."""
    return write_capsule(tmp_path_factory.mktemp("good"), material())


@pytest.mark.long
def test_a_broken_set_fails_each_time(testbed_command: Run, broken: Path) -> None:
    done = testbed_command("replay", str(broken), "--times", "5", "--yes")
    assert done.returncode == 1, done.stderr
    assert "5 of 5 failed (100.0 %, 95 % interval 56.6–100.0 %)" in done.stdout
    assert re.search(r"^5 × ", done.stdout, re.MULTILINE), "they failed in more than one way"
    assert re.search(r"^object    sockops.o  \d+ bytes, sha256 [0-9a-f]{64}$", done.stdout, re.MULTILINE)


@pytest.mark.long
def test_a_good_set_never_fails(testbed_command: Run, good: Path) -> None:
    done = testbed_command("replay", str(good), "--times", "50")  # it asks nothing: there is nothing foreign
    assert done.returncode == 0, done.stderr
    assert "0 of 50 failed (0.0 %, 95 % interval 0.0–7.1 %)" in done.stdout


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capsule with the sources of the broken set."""
    members = collect(material())
    members |= {f"sources/{name}": data for name, data in broken_sources().items()}
    file = tmp_path_factory.mktemp("changed") / "changed.capsule.zip"
    file.write_bytes(pack(members))
    return file


@pytest.mark.long
def test_changed_sources_are_compiled(testbed_command: Run, changed: Path) -> None:
    done = testbed_command("replay", str(changed), "--times", "3", "--yes", "--family", "v6")
    assert done.returncode == 1, done.stderr
    assert "source    bpf/sockops.c: differs from this testbed's" in done.stdout
    assert re.search(r"^    \+\s*watch_state\(skops\);$", done.stdout, re.MULTILINE), "how they differ"
    assert re.search(r"^runs: the capsule's own sources, compiled by clang \d", done.stdout, re.MULTILINE)
    assert re.search(r"^3 × \S*test_4_close\.py:\d+: assert \[record\.event for", done.stdout, re.MULTILINE)
    assert "Use -v" not in done.stdout
    assert "3 of 3 failed" in done.stdout


@pytest.mark.parametrize("name", [pytest.param("changed", marks=pytest.mark.long), "broken"])
def test_here_tells_whether_it_is_mended(
    testbed_command: Run, request: pytest.FixtureRequest, name: str
) -> None:
    """It asks nothing, though there is no terminal to ask at: nothing of the capsule is loaded."""
    done = testbed_command("replay", str(request.getfixturevalue(name)), "--here", "--times", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nruns: bpf/ of this checkout\n" in done.stdout
    assert "0 of 3 failed" in done.stdout


@pytest.mark.long
def test_other_objects_run_in_its_place(testbed_command: Run, good: Path, tmp_path: Path) -> None:
    words = []
    for name, data in built(tmp_path, broken_sources()):
        (tmp_path / name).write_bytes(data)
        words += ["--object", str(tmp_path / name)]
    done = testbed_command("replay", str(good), *words, "--times", "3", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["failed"], "not what the capsule carries" in told["under_test"]) == (3, True)


def test_nobody_is_asked_where_there_is_no_terminal(in_process: Run, broken: Path) -> None:
    done = in_process("replay", str(broken))
    assert done.returncode == 2
    assert "there is no terminal to ask at" in done.stderr
    assert "--yes says that it may be done" in done.stderr


@pytest.mark.parametrize(("answer", "code"), [("n", 2), pytest.param("y", 1, marks=pytest.mark.long)])
def test_a_terminal_is_asked(broken: Path, answer: str, code: int) -> None:
    ours, theirs = os.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "testbed", "replay", broken, "--times", "1"],
            cwd=ROOT,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            os.write(ours, f"{answer}\n".encode())
            said, _ = process.communicate(timeout=30)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code, said
    assert b"into the kernel? [y/N]" in said
    assert (b"it was not agreed to; nothing has been run" in said) == (answer == "n")


@pytest.mark.long
def test_json_is_for_programs(testbed_command: Run, broken: Path) -> None:
    done = testbed_command("replay", str(broken), "--times", "2", "--yes", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["runs"], told["failed"], told["share"]) == (1, 2, 2, 1.0)
    assert [way["count"] for way in told["ways"]] == [2]
    assert told["interval"][0] == pytest.approx(0.342, abs=0.001)


@pytest.mark.long
def test_a_scenario_of_another_name(testbed_command: Run, tmp_path: Path) -> None:
    file = write_capsule(tmp_path, material(NODEID.replace("exactly_four", "exactly_for")))
    done = testbed_command("replay", str(file))
    assert done.returncode == 2
    assert "did you mean 4_close::exactly_four_records_and_one_request[v4]?" in done.stderr


def test_it_needs_root(testbed_command: Run, good: Path) -> None:
    public = Path("/tmp") / f"{os.getpid()}.capsule.zip"  # noqa: S108 (where nobody can read it)
    public.write_bytes(good.read_bytes())
    try:
        done = testbed_command("replay", str(public), prefix=NOBODY)
    finally:
        public.unlink()
    assert done.returncode == 3
    assert "cannot replay a scenario: it needs root" in done.stderr


OWN = """
from testbed.kmesh.mesh import Mesh
from testbed.lab.pair import Pair

def test_mine(pair: Pair, mesh: Mesh) -> None:
    with pair.connect():
        pass
    assert {}
"""


@pytest.mark.long
def test_a_test_of_ones_own_runs_from_the_file_given(testbed_command: Run, tmp_path: Path) -> None:
    text = OWN.format("not 'carried'")
    told = Scenario("tests/test_own.py::test_mine[v6]", shipped=False, family="v6")
    made = Material(failed(), told, info_now(["pytest"], "the set"), test_text=text)
    file = write_capsule(tmp_path, made)
    assert read_capsule(file).test_text == text
    refused = testbed_command("replay", str(file))
    assert refused.returncode == 2
    assert "test_own.py is a test of somebody's own" in refused.stderr
    mine = tmp_path / "test_own.py"
    mine.write_text(OWN.format("True"), encoding="utf-8")
    done = testbed_command("replay", str(file), "--test", str(mine), "--times", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is not the file that the capsule was made with" in done.stdout.replace("\n", " ")
    assert "0 of 5 failed" in done.stdout
    mine.write_text(text, encoding="utf-8")
    done = testbed_command("replay", str(file), "--test", str(mine), "--times", "5")
    assert done.returncode == 1
    assert "is not the file" not in done.stdout
    assert "5 of 5 failed" in done.stdout


@pytest.mark.long
def test_ctrl_c_tells_the_rate_so_far(good: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "testbed", "replay", good, "--times", "100000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually(
            lambda: any(re.fullmatch(r"lab-[5-9]\d", path.name) for path in cgroups_of(process.pid)),
            awaited="some runs",
            deadline=20,
        )
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert re.search(r"0 of \d+ failed \(0.0 %, 95 % interval 0.0–", out)
    assert errors == "testbed: interrupted; what had been run is shown above\n"
    assert not cgroups_of(process.pid)


@pytest.mark.long
def test_from_a_failed_check_to_its_replay(
    testbed_command: Run, edited_checkout: Edit, tmp_path: Path
) -> None:
    """As a person does it: a check fails where the set is broken, and what it left is replayed elsewhere."""
    root = edited_checkout(*BROKEN_LINE)
    words = ("check", "-k", "exactly_four", "--family", "v4", "--capsule", str(tmp_path / "left"))
    failing = testbed_command(*words, cwd=root, env={"TESTBED_STATE": str(tmp_path / "state")})
    assert failing.returncode == 1, failing.stderr
    (file,) = (tmp_path / "left").iterdir()
    done = testbed_command("replay", str(file), "--times", "3", "--yes")
    assert done.returncode == 1, done.stderr
    assert "3 of 3 failed" in done.stdout
    told = testbed_command("story", str(file), "--connection", "1")
    assert told.returncode == 0, told.stderr
    assert "#1  10.77.0.1:" in told.stdout
    done = testbed_command("replay", str(file), "--times", "3", cwd=root)  # asks nothing there
    assert "\nruns: bpf/ of this checkout, the same as the capsule's sources\n" in done.stdout
    assert "3 of 3 failed" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "option", "code", "rate"),
    [
        ("broken", "--yes", 1, "3 of 3 failed"),
        ("good", "--yes", 0, "0 of 3 failed"),
        ("broken", "--here", 0, "0 of 3 failed"),
    ],
)
def test_in_a_guest(
    testbed_command: Run, request: pytest.FixtureRequest, name: str, option: str, code: int, rate: str
) -> None:
    file = request.getfixturevalue(name)
    done = testbed_command("replay", str(file), "--kernel", "6.1", "--times", "3", option, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    assert rate in done.stdout
    assert "in a guest" in done.stdout
    assert "Linux 6.1." in done.stdout
