"""A run that is killed leaves nothing but its cgroup, and gc removes that."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.ending import SIGNALS, undisturbed
from testbed.errors import MachineError
from testbed.kernel.cgroup import cgroup_root
from testbed.kernel.ownership import REGISTRY, owned_cgroup, reap
from testbed.lab.wait import eventually
from tests.conftest import ROOT, Run
from tests.machine import Held, belongings, cgroups_of, left_of


@pytest.fixture
def check(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A check that runs, for a while at least, and has nothing in its cache."""
    with subprocess.Popen(
        [sys.executable, "-m", "testbed", "check", "-k", "not catalogue"],
        cwd=ROOT,
        env={**os.environ, "TESTBED_CACHE": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        yield process
        process.kill()


def is_mapped(pid: int, what: str) -> bool:
    return what in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


def lab_number(pid: int) -> int:
    names = [path.name for path in cgroups_of(pid) if path.name.startswith("lab-")]
    return max((int(name.removeprefix("lab-")) for name in names), default=0)


# Five moments of a run, each by what can be seen of it from outside.
MOMENTS: dict[str, Callable[[int], bool]] = {
    "the cgroup is made": lambda pid: bool(cgroups_of(pid)),
    "the first lab is made": lambda pid: lab_number(pid) >= 1,
    "bcc compiles": lambda pid: is_mapped(pid, "libbcc"),
    "the scenarios have begun": lambda pid: lab_number(pid) >= 2,
    "many scenarios have run": lambda pid: lab_number(pid) >= 60,
}


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_is_left(check: subprocess.Popen[bytes], testbed_command: Run, moment: str) -> None:
    """As it is seen from outside; `tests.faults.test_killed_anywhere` has the points of its inside."""
    eventually(lambda: MOMENTS[moment](check.pid), awaited=moment, deadline=120)
    held = stopped_belongings(check)
    check.kill()
    check.wait()
    done = testbed_command("gc")
    assert done.returncode == 0, done.stderr
    assert_gone(held)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_before_it_has_begun(number: signal.Signals) -> None:
    """The launcher holds them back: Python's own start would answer with a traceback."""
    before = signal.signal(number, lambda *_: None)  # ignored in the background, and that is inherited
    with (
        ExitStack() as stack,
        undisturbed(),  # which is inherited too
        subprocess.Popen(
            [sys.executable, "-m", "testbed", "check"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        stack.callback(signal.signal, number, before)
        process.send_signal(number)
        said, _ = process.communicate(timeout=20)
    assert said == "testbed: interrupted\n"
    assert process.returncode == 128 + number


def stopped_belongings(process: subprocess.Popen[bytes]) -> Held:
    """What a run holds at this moment. It stays stopped."""
    process.send_signal(signal.SIGSTOP)
    state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert state is not None
    assert state.si_code == os.CLD_STOPPED, "it had ended before"
    return belongings(process.pid)


def assert_gone(held: Held) -> None:
    """The kernel frees programs and namespaces in its own time."""

    def left() -> set[str]:
        return left_of(held)

    eventually(
        lambda: not left(), awaited=lambda: f"nothing left of the run, but there is: {left()}", deadline=10
    )


@pytest.mark.long
def test_a_run_that_ends_leaves_nothing(check: subprocess.Popen[bytes]) -> None:
    eventually(lambda: lab_number(check.pid) >= 2, awaited="scenarios that run", deadline=120)
    held = stopped_belongings(check)
    assert {what.split()[0] for what in held} >= {"prog", "map", "cgroup", "process"}
    check.send_signal(signal.SIGCONT)
    assert check.wait(300) == 0
    assert_gone(held)


def test_gc_leaves_the_living_alone(testbed_command: Run) -> None:
    with cgroup_root() as root, owned_cgroup(root) as mine:
        done = testbed_command("gc")
        assert done.returncode == 0
        assert mine.is_dir()
        assert mine.name not in done.stdout


def test_gc_leaves_foreign_cgroups_alone(testbed_command: Run) -> None:
    """Never by the look of a name: this one is called like ours, and nothing says that it is."""
    with cgroup_root() as root:
        foreign = root.path / f"sockops-testbed-{secrets.token_hex(8)}"
        foreign.mkdir()
        try:
            assert testbed_command("gc").returncode == 0
            assert foreign.is_dir()
        finally:
            foreign.rmdir()


def test_gc_says_what_it_removed(tmp_path: Path) -> None:
    """With records of its own: another run that starts meanwhile would reap this one first."""
    environment = {**os.environ, "REGISTRY": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", LEAVE_A_PROCESS], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    ) as dead:
        assert dead.stdout is not None
        name = dead.stdout.readline().strip()
        dead.kill()
    outputs = [
        subprocess.run(
            [sys.executable, "-c", GC], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
        ).stdout
        for _ in range(2)
    ]
    # and perhaps what another test has left just now
    assert [line for text in outputs for line in text.splitlines() if name in line] == [
        f"removed the cgroup {name}, with 1 processes that were still in it"
    ]


USE_REGISTRY = """
import os, pathlib
import testbed.kernel.ownership as ownership
ownership.REGISTRY = pathlib.Path(os.environ["REGISTRY"])
"""
GC = f"""{USE_REGISTRY}
import sys
from testbed.__main__ import main
sys.argv[1:] = ["gc"]
main()
"""
LEAVE_A_PROCESS = f"""{USE_REGISTRY}
import signal
from testbed.kernel.cgroup import cgroup_root
from testbed.kernel.ownership import owned_cgroup
from testbed.kernel.syscalls import clone_into
with cgroup_root() as root, owned_cgroup(root) as path:
    fd = os.open(path, os.O_RDONLY)
    pid, _ = clone_into(fd)
    if pid == 0:
        os.execvp("sleep", ["sleep", "1000"])
    print(path.name, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"cgroup": 1}', '{"cgroup": "../../etc"}', '{"cgroup": "x"}']
)
def test_a_record_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with cgroup_root() as root, pytest.raises(MachineError, match="not a record of ours"):
        reap(root, tmp_path)
    assert (tmp_path / "x.json").exists()


@pytest.mark.long
def test_the_next_run_reaps(testbed_command: Run, check: subprocess.Popen[bytes]) -> None:
    cgroup, *_ = eventually(lambda: cgroups_of(check.pid), awaited="the cgroup of the run", deadline=120)
    record = REGISTRY / f"{cgroup.name}.json"
    check.kill()
    check.wait()
    assert testbed_command("check", "-k", "enrols").returncode == 0
    assert not record.exists()
