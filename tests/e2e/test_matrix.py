"""The contract on real kernels in guests: the table, files, objects, bisection, Ctrl-C and kill -9."""

from __future__ import annotations

import json
import os
import re
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from testbed.bpf.elf.clang import compile_objects
from testbed.guest.state import GuestState
from testbed.matrix.cell import Cell, run_cell
from testbed.report.results import Result
from testbed.report.session import Selection
from tests.conftest import ROOT, Run

TWO = ("--kernel", "5.10", "--kernel", "7")
GUESTS_S = 240  # emulated, on a busy machine, with kernels to fetch and no snapshot


@pytest.mark.long
def test_two_kernels(testbed_command: Run, tmp_path: Path) -> None:
    files = {name: tmp_path / f"matrix.{name}" for name in ("json", "junit", "html")}
    words = [word for name, file in files.items() for word in (f"--{name}", str(file))]
    summary = tmp_path / "summary.md"
    done = testbed_command(
        "matrix", *TWO, "-k", "port_929", *words, env={"GITHUB_STEP_SUMMARY": str(summary)}, timeout=GUESTS_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kernels: 8 passed" in done.stdout
    told = json.loads(files["json"].read_text())
    assert told["kernels"] == ["5.10", "7"]
    assert [guest["state"] for guest in told["guests"].values()] == ["booted", "booted"]
    assert told["guests"]["5.10"]["release"].startswith("5.10.")
    assert told["guests"]["7"]["release"].startswith("7.")
    assert {tuple(row["verdicts"].values()) for row in told["rows"]} == {("pass", "pass")}
    suites = ElementTree.parse(files["junit"]).getroot().findall("testsuite")  # noqa: S314 (our own)
    assert [(suite.get("tests"), suite.get("failures")) for suite in suites] == [("4", "0"), ("4", "0")]
    assert "5.10" in files["html"].read_text()
    assert "5.10" in summary.read_text()


def test_what_feeds_a_ci_matrix(in_process: Run) -> None:
    done = in_process("matrix", "--list", "--json", *TWO)
    assert json.loads(done.stdout) == {"include": [{"kernel": "5.10"}, {"kernel": "7"}]}


@pytest.fixture
def built(edited_checkout: Callable[[str, str, str], Path]) -> Callable[[str, str, str], list[str]]:
    """``--object`` options for the reference, compiled, with one replacement in a file of ``bpf/``."""

    def build(file: str, old: str, new: str) -> list[str]:
        bpf = edited_checkout(file, old, new) / "bpf"
        sources = [bpf / f"{name}.c" for name in ("sockops", "connect", "sendmsg")]
        objects = compile_objects(sources, (bpf / "include",), bpf.parent / "objects")
        return [word for path in objects for word in ("--object", str(path))]

    return build


OBJECTS = [
    (
        ("include/manage.h", "CONTROL_PORT_ENROL 929", "CONTROL_PORT_ENROL 928"),
        (1, "on every kernel", ("fail", "fail")),
    ),
    (
        ("sockops.c", "\n\tswitch (skops->op) {", "\n\tbpf_ktime_get_coarse_ns();\n\tswitch (skops->op) {"),
        (0, "sockops_prog needs bpf_ktime_get_coarse_ns: Linux 5.11", ("skip", "pass")),
    ),
]


@pytest.mark.long
@pytest.mark.parametrize(("edit", "outcome"), OBJECTS, ids=["broken", "too new for 5.10"])
def test_objects(
    testbed_command: Run,
    built: Callable[[str, str, str], list[str]],
    tmp_path: Path,
    edit: tuple[str, str, str],
    outcome: tuple[int, str, tuple[str, str]],
) -> None:
    code, said, verdicts = outcome
    file = tmp_path / "matrix.json"
    words = ("-k", "port_929_enrols", *built(*edit), "--json", str(file))
    done = testbed_command("matrix", *TWO, *words, timeout=GUESTS_S)
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
    assert {tuple(row["verdicts"].values()) for row in json.loads(file.read_text())["rows"]} == {verdicts}


@pytest.mark.long
def test_check_in_a_guest(testbed_command: Run) -> None:
    done = testbed_command("check", "--kernel", "5.10", "-k", "port_929_enrols", timeout=GUESTS_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert "Linux 5.10." in done.stdout


@pytest.mark.long
def test_a_command_is_bisected(testbed_command: Run) -> None:
    done = testbed_command(
        "bisect",
        "--good",
        "5.10",
        "--bad",
        "6.12",
        "--run",
        "sh -c 'uname -r | grep -q ^5'",
        timeout=GUESTS_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first bad: 6.1." in done.stdout.replace("\n", " ")


def children_marked(mark: str) -> list[int]:
    """The QEMU processes that have it in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            is_marked = entry.name.isdecimal() and mark.encode() in (entry / "environ").read_bytes()
            if is_marked and "qemu" in (entry / "exe").readlink().name:
                found.append(int(entry.name))
        except OSError:
            continue  # it is gone, or nobody's
    return found


@pytest.fixture
def matrix() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A matrix that runs scenarios, and the QEMU process that it runs them in."""
    mark = secrets.token_hex(8)
    with subprocess.Popen(
        [sys.executable, "-m", "testbed", "matrix", "--kernel", "5.10", "-j", "1"],
        cwd=ROOT,
        env={**os.environ, "MARK": mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it is told before guests start
            guests: list[int] = []
            while not guests:
                assert process.poll() is None, "it goes on"
                guests = children_marked(mark)
            yield process, guests[0]
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)],
)
def test_guests_end_with_a_matrix(
    matrix: tuple[subprocess.Popen[str], int], number: signal.Signals, code: int
) -> None:
    process, guest = matrix
    ended = os.pidfd_open(guest)
    try:
        os.kill(process.pid, number)
        assert process.wait(10) == code
        assert select.select([ended], [], [], 5)[0], "QEMU ends with what started it"
    finally:
        os.close(ended)
    if number is signal.SIGINT:
        assert process.stdout is not None
        said = process.stdout.read()
        assert "interrupted; what had been run is shown above" in said
        assert "Traceback" not in said


@pytest.mark.long
def test_a_guest_that_is_lost_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = secrets.token_hex(8)
    monkeypatch.setenv("MARK", mark)

    def kill(_: Result) -> None:
        for guest in children_marked(mark):
            os.kill(guest, signal.SIGKILL)

    result = run_cell(Cell("5.10", "5.10", selection=Selection(expression="test_4_close")), kill)
    assert result.guest.state is GuestState.LOST
    assert re.fullmatch(r"QEMU was killed by SIGKILL; then test_4_close\.py::\S+ ran", result.guest.why)
    assert {each.outcome for each in result.results} == {"passed"}


BAD = [
    (("matrix", "--kernel", "5.99"), 2, "5.10"),
    (("matrix", "--kernel", "/etc/passwd"), 2, "no kernel image"),
    (("matrix", *TWO, "-k", "no_such_scenario"), 2, "there is none"),
    (("matrix", *TWO, "--object", "/nowhere.o"), 2, "/nowhere.o"),
    (("matrix", *TWO, "--html", "/nowhere/x.html"), 2, "/nowhere/x.html"),
    pytest.param(  # for as long as nobody answers
        ("matrix", *TWO, "--scheduler", "tcp://127.0.0.1:1"), 3, "127.0.0.1:1", marks=pytest.mark.long
    ),
    (("check", "--kernel", "5.99"), 2, "5.10"),
    (("check", "--modules", "/"), 2, "--kernel"),
    (("check", "--kernel", "5.10", "--list"), 2, "--list"),
    (("bisect", "--good", "5.10", "--bad", "6.1"), 2, "--run"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD, ids=lambda value: str(value)[:50])
def test_bad_input(in_process: Run, words: tuple[str, ...], code: int, said: str) -> None:
    done = in_process(*words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stdout + done.stderr
