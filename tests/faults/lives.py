"""Runs that are ended at a point of their lives, and what is to be there afterwards: nothing."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from testbed.closing import Closing
from testbed.kernel.cgroup import CgroupRoot
from testbed.lab.wait import eventually
from tests.conftest import ROOT
from tests.faults.countdown import Point
from tests.faults.holdings import Holdings, Remains
from tests.faults.nursery import Start

DEADLINE_S = 30
_STORY_LINES = 2
_NOT_INHERITED = {"TESTBED_COMMAND", "TESTBED_STATE", "TESTBED_LAB", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS"}


@dataclass(frozen=True)
class Life:
    """A command, or several one after the other; the first is counted, or the process that it forks.

    ``codes`` are the first command's exit codes that are in order, by signal; 0 for none.
    """

    name: str
    kind: str
    words: tuple[str, ...]
    codes: Mapping[int, tuple[int, ...]]
    forked: bool = False
    then: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Place:
    """The folder of one life: all that it can write to."""

    folder: Path

    def make(self) -> None:
        for name in ("registry", "tmp", "state"):
            (self.folder / name).mkdir(parents=True)

    def environment(self, cache: Path) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        places = {
            "TESTBED_STATE": self.folder / "state",
            "TESTBED_CACHE": cache,
            "TMPDIR": self.folder / "tmp",
        }
        return {**inherited, **{key: str(path) for key, path in places.items()}, "COLUMNS": "120"}

    def said(self) -> str:
        return "".join(
            (self.folder / name).read_text(encoding="utf-8", errors="replace")
            for name in ("stdout", "stderr")
        )

    @property
    def remains(self) -> Remains:
        return Remains(self.folder / "registry", self.folder / "tmp", self.folder / "state")


class Nursery(Closing):
    """This side of `tests.faults.nursery`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.nursery", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def start(
        self,
        place: Place,
        kind: str,
        words: Sequence[str],
        stop_at: int | None = None,
        forked: bool = False,
        times: int = 1,
    ) -> int:
        """Begins a life; returns its pid, which stays its own until `code`."""
        registry = place.folder / "registry"
        start = Start(
            kind,
            tuple(words),
            place.environment(self._cache),
            str(place.folder),
            str(registry),
            stop_at,
            forked,
            times,
        )
        self._control.send(json.dumps(asdict(start)).encode())
        return int(self._answer())

    def code(self, pid: int) -> int:
        """Waits for its end. Returns its exit code, negative for a signal."""
        pidfd = os.pidfd_open(pid)
        try:
            assert select.select([pidfd], [], [], DEADLINE_S)[0], f"process {pid} does not end"
        finally:
            os.close(pidfd)
        self._control.send(json.dumps({"wait": pid}).encode())
        return int(self._answer())

    def run(self, place: Place, kind: str, words: Sequence[str]) -> int:
        """A life from its beginning to its end. Returns its exit code."""
        return self.code(self.start(place, kind, words))

    def _answer(self) -> str:
        answer = self._control.recv(100)
        assert answer, "the nursery has ended"
        return answer.decode()

    def close(self) -> None:
        self._control.close()
        self._process.wait()


@dataclass(frozen=True)
class Ended:
    """How a life was ended: where, and every complaint about it."""

    point: Point | None
    complaints: tuple[str, ...]
    held: Mapping[str, int] = field(default_factory=dict)


def points(nursery: Nursery, life: Life, place: Place) -> list[Point]:
    """Every point of an undisturbed life."""
    place.make()
    codes = [nursery.code(nursery.start(place, life.kind, life.words, 0, life.forked))]
    codes += [nursery.run(place, "testbed", words) for words in life.then]
    assert codes == [life.codes[0][0], *(0 for _ in life.then)], place.said()
    lines = (place.folder / "tell").read_text(encoding="utf-8").splitlines()
    found = [Point(**json.loads(line)) for line in lines]
    return [point for point in found if point.line.startswith("testbed")]  # else it is pytest's own


class _Trial(Closing):
    """One life that is ended."""

    def __init__(self, nursery: Nursery, life: Life, place: Place, root: CgroupRoot, times: int) -> None:
        self._nursery = nursery
        self._life = life
        self._place = place
        self._root = root
        self._times = times
        self._undo = ExitStack()
        self._pipes = {}
        place.make()
        (place.folder / "proceed").mkdir()
        for name in ("tell", *(f"proceed/{number}" for number in range(times))):
            os.mkfifo(place.folder / name)
            fd = os.open(place.folder / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._undo.callback(os.close, fd)
            self._pipes[name] = fd
        self._held: Holdings | None = None
        self._point: Point | None = None

    def end_at(self, number: int, signaled: signal.Signals) -> Ended:
        life = self._life
        pid = self._nursery.start(self._place, life.kind, life.words, number, life.forked, self._times)
        for turn in range(self._times):
            self._until_point(pid, signaled, turn)
        code = self._nursery.code(pid)
        complaints = []
        for words in life.then:
            later = self._nursery.start(self._place, "testbed", words)
            self._until_point(later, signaled)
            self._nursery.code(later)
        if self._point is None:
            return Ended(None, (f"it ended with {code} before its point {number}",))
        if not life.forked and code not in life.codes[signaled]:
            complaints.append(f"it ended with {code}, not {life.codes[signaled]}")
        assert self._held is not None
        complaints += self._gone(signaled) + self._said(signaled) + self._stories()
        return Ended(self._point, tuple(complaints), self._held.count())

    def _until_point(self, pid: int, signaled: signal.Signals, turn: int = 0) -> None:
        """Lets a process go on until the point, if that comes before its end, and signals who is there."""
        pidfd = os.pidfd_open(pid)
        try:
            tell = self._pipes["tell"]
            ready, _, _ = select.select([tell, pidfd], [], [], DEADLINE_S)
            assert ready, f"it neither comes to its point nor ends:\n{self._place.said()}"
        finally:
            os.close(pidfd)
        if tell not in ready:
            return
        self._point = Point(**json.loads(os.read(tell, 4096)))
        self._held = Holdings(self._point.pid, self._place.folder / "registry", self._root)
        self._undo.enter_context(self._held)
        os.kill(self._point.pid, signaled)
        os.write(self._pipes[f"proceed/{turn}"], b"\n")

    def _gone(self, signaled: signal.Signals) -> list[str]:
        """At once what descriptors own; and, in order, all of it, else after gc."""
        held, remains = self._held, self._place.remains
        assert held is not None
        found = _never(held.left, "still there")
        if signaled is not signal.SIGKILL:
            found += _never(remains.records, "registered still, after an end in order")
        if self._nursery.run(self._place, "testbed", ["gc"]) != 0:
            found.append("gc fails")
        found += [f"after gc: {each}" for each in remains.records()]
        found += [f"after gc: the cgroup {path}" for path in held.cgroups if path.exists()]
        return found + [f"after gc: {each}" for each in remains.files()]

    def _said(self, signaled: signal.Signals) -> list[str]:
        said = self._place.said()
        lines = (self._place.folder / "stderr").read_text(encoding="utf-8").splitlines()
        found = [f"it said:\n{said}"] if "Traceback" in said or "Exception ignored" in said else []
        if signaled is not signal.SIGKILL and not self._life.forked and len(lines) > self._times:
            found.append("it said more than a line a signal: " + "\n".join(lines))
        return found

    def _stories(self) -> list[str]:
        """What is kept of the run is whole, or said to be not; in either case it can be read."""
        found = []
        for run in self._place.remains.runs():
            reader = Place(self._place.folder / f"reader-{run.name}")
            reader.make()
            code = self._nursery.run(reader, "testbed", ["story", str(run)])
            lines = (reader.folder / "stderr").read_text(encoding="utf-8").splitlines()
            if code not in {0, 2} or len(lines) > _STORY_LINES or "Traceback" in reader.said():
                found.append(f"its story ends with {code}: {reader.said()}")
        return found

    def close(self) -> None:
        self._undo.close()


def _never(left: object, what: str) -> list[str]:
    """Nothing, once that is so; else what is there after the deadline."""
    assert callable(left)
    try:
        eventually(lambda: not left(), awaited="nothing left", deadline=10)
    except AssertionError:
        return [f"{what}: {each}" for each in left()]
    return []


def end_at(
    nursery: Nursery,
    life: Life,
    place: Place,
    root: CgroupRoot,
    number: int,
    signaled: signal.Signals,
    times: int = 1,
) -> Ended:
    """Ends a life at a point, and looks at what is left of it. ``times``: also at so many that follow."""
    with _Trial(nursery, life, place, root, times) as trial:
        return trial.end_at(number, signaled)
