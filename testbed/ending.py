"""How a run ends that is told to: Ctrl-C, ``kill`` and a terminal that closes have it undo what it has made.

The first such signal raises `KeyboardInterrupt`, wherever the run is, and everything is undone on the way
out. A second one would interrupt that: it is answered with a line. A third ends the process at once; what
no descriptor owns is left to the next run.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNTOUCHED = {signal.SIG_DFL, signal.default_int_handler}
_PATIENCE = b"testbed: ending already; one more ends it at once, and leaves the rest to the next run\n"


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP."""


class Ending:
    """The handler of the `SIGNALS`. ``first`` is the number of the one that came first; 0 before.

    Once ``is_over``, nothing is left to be interrupted, and those that come are not heard.
    """

    def __init__(self) -> None:
        self.first = 0
        self.is_over = False
        self._came = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.is_over:
            return
        self._came += 1
        if self._came == 1:
            self.first = number
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated
        if self._came == 2:
            os.write(2, _PATIENCE)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    @property
    def code(self) -> int:
        """The exit code of a process that the signal ended, as shells count it; 0 where none came."""
        return 128 + self.first if self.first else 0


@contextmanager
def in_order() -> Iterator[None]:
    """Within the block this process ends in order, by the signals that nobody else handles or ignores."""
    ending, before = Ending(), {}
    if threading.current_thread() is threading.main_thread():  # nobody else may set handlers
        before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, handler in before.items():
            if handler in _UNTOUCHED:
                signal.signal(number, ending)
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is ending:
                signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """The signals wait until the block ends; a process that is forked in it says itself when (`heard`).

    One that another thread takes, which does not hold it back, comes to the main thread's handlers all the
    same: so these wait too.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    handlers = _called() if threading.current_thread() is threading.main_thread() else {}
    try:
        for number in handlers:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is note:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if came:
            signal.raise_signal(came[0])


def _called() -> dict[signal.Signals, Any]:
    """The handlers of the signals that have one in Python: what the kernel does itself, it does at once."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in handlers.items() if callable(handler)}


def heard() -> None:
    """From now on the signals are heard in this thread, also those that have waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
