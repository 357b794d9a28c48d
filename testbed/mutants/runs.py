"""One run of the scenarios on one set of objects, in a forked child: what it is asked and what it tells."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from testbed.errors import MachineError, TestbedError
from testbed.kernel.syscalls import die_with_parent

_LONGEST = 400


@dataclass(frozen=True)
class Run:
    """``order`` are numbers of scenarios; with ``until_failure`` the first that fails is the last that runs.

    ``key`` is the caller's. ``deadline`` is in seconds.
    """

    key: int
    objects: tuple[tuple[str, bytes], ...]
    order: tuple[int, ...]
    deadline: float
    until_failure: bool = True


class _Rejected(Exception):
    """The kernel does not take a program of the set."""


class Teller:
    """A pytest plugin, in the child: tells what happens, as a line of JSON each."""

    def __init__(self, report_fd: int, names: set[str]) -> None:
        self._fd = report_fd
        self._rejected_before = names
        self._failed = False
        self._over = False  # nothing more is to be run: the set is no good, or the machine is not
        self.item = -1
        self._modules = frozenset(sys.modules)

    def tell(self, word: str, *values: object) -> None:
        self._over |= word in {"invalid", "error"}
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more; SIGKILL is on its way
            data = f"{json.dumps([word, *values])}\n".encode()
            while data:
                data = data[os.write(self._fd, data) :]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        """A set that the kernel does not take as it took the unchanged one is no mutant to run."""
        made = yield
        if fixturedef.argname == "subject":
            failures = made.program_set.failures
            for failure in failures:
                if failure.name not in self._rejected_before:
                    self.tell("invalid", f"{failure.name} is rejected: {failure.reason}")
                    raise _Rejected
            self.tell("loaded", sorted(failure.name for failure in failures))
        return made

    def pytest_exception_interact(self, call: Any, report: Any) -> None:
        error = call.excinfo.value
        if report.when == "setup" and isinstance(error, TestbedError):
            kind = "error" if isinstance(error, MachineError) else "invalid"
            self.tell(kind, str(error).partition("\n")[0])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self._failed and not self._over:
            self._failed = True
            self.tell("failed", self.item, _why(report))

    def run(self, session: pytest.Session, run: Run) -> None:
        """The scenarios, one after the other."""
        for place, number in enumerate(run.order):
            self.item, self._failed = number, False
            after = run.order[place + 1 : place + 2]
            self.tell("item", number)
            session.config.hook.pytest_runtest_protocol(
                item=session.items[number], nextitem=session.items[after[0]] if after else None
            )
            if self._over or (self._failed and run.until_failure):
                break
        session._setupstate.teardown_exact(None)
        self.tell("modules", sorted(set(sys.modules) - self._modules))
        self.tell("end")


def _why(report: pytest.TestReport) -> str:
    """The assertion in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return f"{report.when}: {lines[0]}"[:_LONGEST] if lines else report.when


def start(session: pytest.Session, run: Run, rejected: frozenset[str]) -> tuple[int, int, int]:
    """Forks a child for one run. Returns (pid, its pipe, a file of what it printed)."""
    with ExitStack() as stack:
        mine, theirs = os.pipe()
        stack.callback(os.close, theirs)
        printed = os.memfd_create("printed", os.MFD_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _child(session, run, rejected, theirs, printed, parent)
        return pid, mine, printed


def _child(
    session: pytest.Session, run: Run, rejected: frozenset[str], report_fd: int, printed: int, parent: int
) -> None:
    code = 70
    try:
        die_with_parent()
        if os.getppid() != parent:
            return  # it died before that
        os.setpgid(0, 0)  # Ctrl-C is the parent's: it tells us to unwind
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for fd in (1, 2):
            os.dup2(printed, fd)
        teller = Teller(report_fd, set(rejected))
        session.config.pluginmanager.register(teller)
        session.config.option.object = [file_in_memory(name, data) for name, data in run.objects]
        teller.run(session, run)
        code = 0
    except KeyboardInterrupt:
        session._setupstate.teardown_exact(None)
    except BaseException:  # noqa: BLE001 (the child ends here, whatever it is; the parent tells of it)
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def file_in_memory(name: str, data: bytes) -> str:
    """A path of a file that is in memory alone, as long as this process lives, for it and no other."""
    fd = os.memfd_create(name)
    while data:
        data = data[os.write(fd, data) :]
    return f"/proc/self/fd/{fd}"
