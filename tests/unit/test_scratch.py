"""Temporary directories: private, locked as long as their process lives, and removed after it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from testbed import scratch
from testbed.bpf.elf.kept import tidy_kept
from testbed.errors import MachineError
from testbed.scratch import let_go_of_scratch, scratch_folder, tidy_scratch
from tests.conftest import ROOT

HOLD = """
from testbed.scratch import scratch_folder
with scratch_folder("test") as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    input()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where all is, and nothing of other tests."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(scratch, "_places", lambda: [Path(os.environ["TMPDIR"])])
    return tmp_path


@pytest.fixture
def killed(place: Path) -> Path:
    """What a process that was killed has left."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert tidy_scratch() == [], "its process lives"
        process.kill()
    assert (folder / "file").exists()
    assert folder.parent.parent == place
    return folder


def in_child(act: Callable[[], object]) -> int:
    """Its exit code, of a process that was forked and ends at once: 0 where ``act`` returns."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_it_is_private_and_nothing_is_left_of_it(place: Path) -> None:
    with scratch_folder("one") as one, scratch_folder("two") as two:
        (one / "file").touch()
        assert one.parent == two.parent
        assert [path.stat().st_mode & 0o777 for path in (one, one.parent)] == [0o700, 0o700]
        assert tidy_scratch() == []
        assert (one / "file").exists()
    assert not list(place.iterdir())


def test_what_the_dead_left_is_removed(place: Path, killed: Path) -> None:
    with scratch_folder("mine") as mine:
        assert tidy_scratch() == [killed]
        assert mine.exists()
    assert not list(place.iterdir())


@pytest.mark.parametrize("made", ["link", "dangling", "file", "open", "others"])
def test_what_others_have_made_there_is_neither_used_nor_removed(
    place: Path, tmp_path_factory: pytest.TempPathFactory, made: str
) -> None:
    parent = place / f"sockops-testbed-{os.geteuid()}"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").mkdir()
    if made in {"link", "dangling"}:
        parent.symlink_to(elsewhere if made == "link" else place / "nowhere")
    elif made == "file":
        parent.touch()
    else:
        parent.mkdir(mode=0o755 if made == "open" else 0o700)
        (parent / "precious").mkdir()
        if made == "others":
            os.chown(parent, 65534, 65534)
    with pytest.raises(MachineError, match="TMPDIR"), scratch_folder("test"):
        pass
    assert tidy_scratch() == []
    assert (elsewhere / "precious").exists()
    assert made not in {"open", "others"} or (parent / "precious").exists()


@pytest.mark.parametrize("lets_go", [False, True])
def test_a_fork_that_goes_on(place: Path, lets_go: bool) -> None:
    """It has the lock too, unless it lets go of it; and to remove the directory is not its."""
    ready, gone = os.pipe(), os.pipe()

    def middle() -> None:  # the maker, which is killed
        with scratch_folder("test"):
            if os.fork() == 0:
                if lets_go:
                    let_go_of_scratch()
                os.close(gone[1])
                os.write(ready[1], b"\n")
                os.read(gone[0], 1)  # until the test has closed its end
                return
            os.read(ready[0], 1)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(middle) == -signal.SIGKILL
    assert len(tidy_scratch()) == lets_go
    for fd in (*ready, *gone):
        os.close(fd)
    assert list(place.iterdir()) == [] or not lets_go


def test_a_fork_that_ends_first_removes_nothing(place: Path) -> None:
    with contextlib.suppress(SystemExit), scratch_folder("test") as folder:
        pid = os.fork()
        if pid == 0:
            sys.exit()
        os.waitpid(pid, 0)
        assert folder.exists()
        pid = -1
    if pid == 0:
        os._exit(0)
    assert not list(place.iterdir())


@pytest.mark.parametrize("named", ["none", "/proc", ""])
def test_where_nothing_can_be_made_another_place_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / named) if named else "")
    with scratch_folder("test") as folder:
        assert folder.parent.parent in {Path("/tmp"), Path("/var/tmp")}  # noqa: S108
    assert not folder.exists()


def test_drafts_of_what_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are a dead process's if nobody has the folder's lock."""
    monkeypatch.setenv("TESTBED_CACHE", str(place))
    folder = place / "programs"
    folder.mkdir()
    (folder / "tmpdraft").touch()
    (folder / "whole.o").touch()
    tidy_kept()
    assert [path.name for path in folder.iterdir()] == ["whole.o"]


EVENTS = {"testbed.acquired", "open", "os.mkdir", "os.rmdir", "os.remove", "fcntl.flock", "os.scandir"}


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)],
    ids=lambda number: number.name,
)
def test_ended_at_any_point(place: Path, number: signal.Signals) -> None:
    """By SIGINT nothing is left at once, by SIGKILL after what the next run does."""

    def life(points: Iterator[int]) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        me = os.getpid()

        def heard(event: str, _arguments: object) -> None:
            if event in EVENTS and os.getpid() == me and next(points, 1) == 0:
                os.kill(me, number)

        sys.addaudithook(heard)
        with contextlib.suppress(KeyboardInterrupt), scratch_folder("test") as folder:
            (folder / "file").touch()

    codes = []
    for first in range(30):
        codes.append(in_child(partial(life, iter(range(first, -1, -1)))))
        if number == signal.SIGKILL:
            tidy_scratch()
        assert not list(place.iterdir()), f"at point {first}"
    assert (codes[12], codes[-1]) == (-signal.SIGKILL if number == signal.SIGKILL else 0, 0)
