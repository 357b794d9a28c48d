"""Runs in children, some at a time: their reports, deadlines and ends."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.mutants.model import Failure
from testbed.mutants.runs import Run, start

_UNWIND_S = 10.0
_CHUNK = 65536


@dataclass(frozen=True)
class Ended:
    """What a run told. ``how`` is end, invalid, deadline, or error; ``reason`` says more of the last three.

    ``failures`` in the order that they came, ``ran`` counts scenarios, ``rejected`` are the programs
    that the kernel did not take, ``modules`` what had to be imported for the run.
    """

    key: int
    how: str
    reason: str
    failures: tuple[Failure, ...]
    ran: int
    last: int
    seconds: float
    rejected: frozenset[str]
    modules: tuple[str, ...] = ()


@dataclass
class _Child:
    run: Run
    pid: int
    pidfd: int
    pipe: int
    printed: int
    begun: float
    rest: bytes = b""
    told: list[list[Any]] = field(default_factory=list)
    late: bool = False

    @property
    def end(self) -> float:
        return self.begun + self.run.deadline

    def read(self) -> None:
        data = os.read(self.pipe, _CHUNK)
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.told += [json.loads(line) for line in lines]

    def drain(self) -> None:
        """What is left in the pipe of a child that has ended."""
        while select.select([self.pipe], [], [], 0)[0]:
            before = len(self.told), self.rest
            self.read()
            if (len(self.told), self.rest) == before:
                return


class Pool(Closing):
    """Forks children of this process, which has to have a single thread. ``rejected`` are programs that
    the kernel does not take of the unchanged set either.
    """

    def __init__(self, session: pytest.Session, at_once: int) -> None:
        self.rejected: frozenset[str] = frozenset()
        self._session = session
        self._at_once = at_once
        self._children: dict[int, _Child] = {}

    @property
    def free(self) -> bool:
        """Whether one more may run."""
        return len(self._children) < self._at_once

    @property
    def busy(self) -> bool:
        return bool(self._children)

    def start(self, run: Run) -> None:
        """Begins a run in a child of its own."""
        pid, pipe, printed = start(self._session, run, self.rejected)
        pidfd = os.pidfd_open(pid)
        acquired("pidfd", pidfd)
        self._children[pid] = _Child(run, pid, pidfd, pipe, printed, time.monotonic())

    def wait(self, longest: float) -> Iterator[Ended]:
        """The runs that ended, waiting for one at most so many seconds."""
        poll = select.poll()
        by_fd = {}
        for child in self._children.values():
            by_fd[child.pipe] = by_fd[child.pidfd] = child
            poll.register(child.pipe, select.POLLIN)
            poll.register(child.pidfd, select.POLLIN)
        now = time.monotonic()
        until = min((now + longest, *(child.end for child in self._children.values() if not child.late)))
        for fd, _ in poll.poll(max(0.0, until - now) * 1000):
            child = by_fd[fd]
            if fd == child.pidfd:
                yield self._ended(child)
            elif child.pid in self._children:
                child.read()
        for child in self._children.values():
            if time.monotonic() >= child.end and not child.late:
                child.late = True
                os.kill(child.pid, signal.SIGKILL)

    def _ended(self, child: _Child) -> Ended:
        child.drain()
        del self._children[child.pid]
        _, status = os.waitpid(child.pid, 0)
        said = _all(child.printed).decode(errors="backslashreplace").strip()
        for fd in (child.pipe, child.pidfd, child.printed):
            os.close(fd)
        return _told(child, os.waitstatus_to_exitcode(status), said)

    def close(self) -> None:
        """Asks those that still run to unwind; who does not is killed."""
        for child in self._children.values():
            os.kill(child.pid, signal.SIGINT)
        end = time.monotonic() + _UNWIND_S
        for child in list(self._children.values()):
            left = max(0.0, end - time.monotonic())
            if not select.select([child.pidfd], [], [], left)[0]:
                os.kill(child.pid, signal.SIGKILL)
            self._ended(child)


def _all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _told(child: _Child, code: int, said: str) -> Ended:
    words = child.told
    items = [word[1] for word in words if word[0] == "item"]
    over = [(word[0], str(word[1])) for word in words if word[0] in {"invalid", "error"}]
    if over:
        how, reason = over[0]
    elif words and words[-1][0] == "end" and code == 0:
        how, reason = "end", ""
    elif child.late:
        how, reason = "deadline", f"still at it after {child.run.deadline:.0f} s"
    else:
        ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        how, reason = (
            "error",
            ": ".join(
                [f"the run was {ending}" if code < 0 else f"the run {ending}", *said.splitlines()[-1:]]
            ),
        )
    return Ended(
        child.run.key,
        how,
        reason,
        tuple(Failure(word[1], word[2]) for word in words if word[0] == "failed"),
        len(items),
        items[-1] if items else -1,
        time.monotonic() - child.begun,
        frozenset(name for word in words if word[0] == "loaded" for name in word[1]),
        tuple(name for word in words if word[0] == "modules" for name in word[1]),
    )
