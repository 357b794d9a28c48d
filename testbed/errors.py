"""The errors that reach a person: what was attempted, what happened, what to do."""

from __future__ import annotations

import errno as _errno
import os
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    PASSED = 0
    FAILED = 1
    USAGE = 2
    CANNOT_RUN = 3
    INTERRUPTED = 130  # Ctrl-C, as shells count it


def errno_name(number: int) -> str:
    """The name and text of an errno (a negative one as the kernel returns it): ``EPERM (Operation …)``."""
    number = abs(number)
    return f"{_errno.errorcode.get(number, f'errno {number}')} ({os.strerror(number)})"


def command(arguments: str) -> str:
    """How a person runs one of our commands here: by the launcher of a checkout, or by its name."""
    return f"{os.environ.get('TESTBED_COMMAND', 'testbed')} {arguments}"


class TestbedError(Exception):
    """Something the testbed could not do.

    ``what`` was attempted, ``why`` is what happened, ``fix`` what to do about it. ``details`` are
    lines worth seeing at once (a compiler's error, the verifier's reason); the whole of it is in
    the file that ``why`` or ``details`` names.
    """

    __test__ = False  # a name that pytest would take for a test class
    exit_code = ExitCode.CANNOT_RUN

    def __init__(self, what: str, why: str, fix: str = "", details: str = "") -> None:
        super().__init__(what, why, fix, details)
        self.what = what
        self.why = why
        self.fix = fix
        self.details = details

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}"
        if self.details:
            text += "\n" + "\n".join(f"    {line}" for line in self.details.splitlines())
        if self.fix:
            text += f"\n  → {self.fix}"
        return text


class UsageError(TestbedError):
    """A request that makes no sense as it was put (a bad file, option or value)."""

    exit_code = ExitCode.USAGE


class MachineError(TestbedError):
    """The machine cannot do what is needed: no root, no cgroup v2, no headers."""


class ProgramError(TestbedError):
    """A BPF program that does not compile, load or attach."""


class WaitExpired(AssertionError):
    """A condition that did not come true before its deadline."""


class EventsLost(AssertionError):
    """A ring was full, so that what was recorded is not all that happened."""
