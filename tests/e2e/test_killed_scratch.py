"""Temporary files of runs that are ended: gone at once after a signal, after ``gc`` when killed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.lab.wait import eventually
from testbed.scratch import tidy_scratch
from tests.conftest import ROOT, Run
from tests.machine import cgroups_of

Begin = Callable[[str], subprocess.Popen[bytes]]

LIVES = {
    "check": ("check", "-n", "2", "-k", "not catalogue"),
    "hold": ("check", "-n", "2", "-k", "not catalogue", "--hold-on-fail"),
    "bench": ("bench", "--rounds", "8", "--passes", "1"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``TMPDIR``, of this test alone."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


@pytest.fixture
def begin(place: Path) -> Iterator[Begin]:
    """Begins a run; returns when there are files of its in the directories that it is to have."""

    def run(life: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed", *LIVES[life]],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        undo.callback(process.wait)
        undo.callback(process.kill)
        eventually(lambda: is_in_the_middle(life, place), awaited=f"files of {life}", deadline=30)
        return process

    with ExitStack() as undo:
        yield run


def is_in_the_middle(life: str, place: Path) -> bool:
    """``check``: when a worker has labs; else as soon as the directory is there."""
    wanted = {"check": "workers", "hold": "held", "bench": "objects"}[life]
    if not any(place.glob(f"sockops-testbed-*/{wanted}-*")):
        return False
    return life != "check" or any(
        path.name.startswith("lab-") for pid in processes_of(place) for path in cgroups_of(pid)
    )


def is_stopped(process: subprocess.Popen[bytes], place: Path) -> bool:
    """Stops it, but where it is making a directory: then it has the lock that others need to look."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    (parent,) = place.iterdir()
    fd = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process.send_signal(signal.SIGCONT)
        return False
    finally:
        os.close(fd)
    return True


@pytest.mark.long
@pytest.mark.parametrize("life", LIVES)
def test_killed(place: Path, begin: Begin, testbed_command: Run, life: str) -> None:
    process = begin(life)
    eventually(lambda: is_stopped(process, place), awaited="the lock of the directory above", deadline=30)
    assert not [each for each in tidy_scratch() if each.is_relative_to(place)], "it lives"
    process.kill()
    process.wait()
    eventually(lambda: not processes_of(place), awaited="the end of all its processes", deadline=20)
    (parent,) = place.iterdir()
    left = sorted(parent.iterdir())
    assert left, "it has ended before"
    done = testbed_command("gc")
    assert done.returncode == 0, done.stderr
    for folder in left:
        assert f"removed the temporary files of a dead run in {folder}\n" in done.stdout
    assert not list(place.iterdir())


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("life", LIVES)
def test_told_to_end(place: Path, begin: Begin, life: str, number: signal.Signals) -> None:
    process = begin(life)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert not list(place.iterdir())


@pytest.mark.long
def test_the_next_run_removes_them(place: Path, begin: Begin, testbed_command: Run) -> None:
    process = begin("bench")
    process.kill()
    process.wait()
    assert list(place.iterdir())
    assert testbed_command("check", "-k", "enrols").returncode == 0
    assert not list(place.iterdir())


def processes_of(place: Path) -> list[int]:
    """Processes that have this ``TMPDIR``, but for this one."""
    said = f"TMPDIR={place}".encode()
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdecimal() and int(each.name) != os.getpid():
            try:
                environment = (each / "environ").read_bytes()
            except OSError:  # gone
                continue
            if said in environment.split(b"\0"):
                found.append(int(each.name))
    return found
