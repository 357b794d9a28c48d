"""Stops a process at exactly the N-th thing that it acquires or gives up, for its parent to end it there.

What counts are the audit events (PEP 578) of `testbed.acquired` and those of Python that make or remove
something outside of the process. At the N-th the process tells what it is about, and waits: it holds the
same until it is signalled, however long its parent looks at it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from testbed.acquired import ACQUIRED
from tests.conftest import ROOT

_OTHERS = frozenset(
    {
        "os.fork",
        "os.link",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.symlink",
        "subprocess.Popen",
    }
)
_OURS = tuple(str(ROOT / name) + os.sep for name in ("testbed", "tests"))


@dataclass(frozen=True)
class Point:
    """The ``number``-th of a life: its event, what it is about, and the line of ours that it is in."""

    number: int
    event: str
    what: str
    line: str
    pid: int

    def __str__(self) -> str:
        return f"point {self.number}, {self.event} {self.what} at {self.line}"


class Countdown:
    """Stops at the point number ``stop_at``, and so many that follow; 0 tells of all and stops at none.

    ``forked``: what counts is not this process but what it forks. A line for each point is written to
    the file ``tell``; the process goes on when there is something to read from a file in ``proceed``: ``0``,
    then ``1``. They are named pipes of the parent's: what is forked may have closed all descriptors.
    """

    def __init__(self, stop_at: int, tell: Path, proceed: Path, times: int, *, forked: bool) -> None:
        self._stop_at = range(stop_at, stop_at + times if stop_at else 0)
        self._tell = tell
        self._proceed = proceed
        self._forked = forked
        self._parent = self._pid = os.getpid()
        self._number = 0
        self._busy = False

    def begin(self) -> None:
        """From now on it counts; there is no way back (PEP 578)."""
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._busy or not _counts(event, arguments):
            return
        pid = os.getpid()
        if (pid == self._parent) is self._forked:
            return
        self._busy = True
        try:
            if pid != self._pid:  # the fork's own count
                self._pid, self._number = pid, 0
            self._number += 1
            self._count(event, arguments)
        finally:
            self._busy = False

    def _count(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._stop_at and self._number not in self._stop_at:
            return
        what = " ".join(map(str, arguments[: 2 if event == ACQUIRED else 1]))[:200]
        point = {
            "number": self._number,
            "event": event,
            "what": what,
            "line": _line(sys._getframe(3)),
            "pid": self._pid,
        }
        with self._tell.open("ab", buffering=0) as tell:
            tell.write(f"{json.dumps(point)}\n".encode())
        if self._stop_at:
            with (self._proceed / str(self._stop_at.index(self._number))).open("rb", buffering=0) as proceed:
                proceed.read(1)  # a handler's exception comes out of here


def _counts(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        path, _, flags = arguments
        makes = isinstance(flags, int) and flags & (os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY))
        return bool(makes) and "__pycache__" not in str(path) and path != os.devnull
    return event == ACQUIRED or event in _OTHERS


def _line(frame: FrameType | None) -> str:
    """The innermost line of the project's own."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_OURS) and frame.f_code.co_filename != __file__:
            return f"{os.path.relpath(frame.f_code.co_filename, ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
