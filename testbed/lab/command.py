"""Commands that run on a host, and how they ended."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from socket import socket as Socket

from testbed.closing import Closing
from testbed.deadlines import scaled
from testbed.errors import WaitExpired
from testbed.kernel.broker import receive
from testbed.kernel.syscalls import pidfd_send_signal

COMMAND_DEADLINE_S = scaled(30.0)


@dataclass(frozen=True)
class Completed:
    """A command that has ended: its exit code (negative: the signal), and what it wrote."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


class CommandFailed(AssertionError):
    """A command that was expected to succeed ended with another code than 0."""


class Command(Closing):
    """A command that runs on a host. Leaving the ``with`` block kills what still runs."""

    def __init__(self, argv: tuple[str, ...], status: Socket, pid: int, pidfd: int) -> None:
        self.argv = argv
        self.pid = pid
        self._status = status
        self._pidfd = pidfd
        self._code: int | None = None
        self._undo = ExitStack()
        self._undo.callback(os.close, pidfd)
        self._undo.callback(status.close)

    def wait(self, deadline: float = COMMAND_DEADLINE_S) -> int:
        """Waits for the end; returns the exit code (negative: the signal), again if asked again.

        `WaitExpired` after ``deadline`` seconds.
        """
        if self._code is None:
            self._status.settimeout(deadline)
            try:
                (code,), _ = receive(self._status)
            except TimeoutError as error:
                raise WaitExpired(f"awaited for {deadline:g} s: the end of {' '.join(self.argv)}") from error
            except EOFError as error:
                raise WaitExpired(f"{' '.join(self.argv)}: its host is gone, and so is it") from error
            self._code = int(code)
        return self._code

    def send_signal(self, number: int) -> None:
        """`ProcessLookupError` when it has ended."""
        pidfd_send_signal(self._pidfd, number)

    def kill(self) -> int:
        """Kills it and waits; returns -9, or the code that it ended with before."""
        with suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)
        return self.wait()

    def close(self) -> None:
        self._undo.close()
