"""The machine before the whole session and after it: a difference fails the session."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import pytest

from testbed.bill.machine import others_live
from tests.host import OF_OTHER_TESTS, Snapshot, differences, snapshot

_SHOWN = 40
OF_NOBODY = re.compile(r"[-+] (mounts|named namespaces|pins|cgroups): ")
"""What anybody may make and remove meanwhile, such as another run of these tests."""


@dataclass
class Untouched:
    """The plugin of a session; of xdist's, of the process that hands out the tests."""

    before: Snapshot
    changed: tuple[str, ...] = ()

    @pytest.hookimpl(trylast=True)  # the fixtures of the session are closed by then, and its workers gone
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        found = differences(self.before, snapshot())
        self.changed = tuple(line for line in found if not OF_OTHER_TESTS.search(line))
        if all(OF_NOBODY.match(line) for line in self.changed) and others_live():
            return  # nobody can tell whose these are: they are shown
        if self.changed and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.changed:
            terminalreporter.section("the machine is not as it was before the tests", red=True)
            for line in self.changed[:_SHOWN]:
                terminalreporter.line(line)
            if (more := len(self.changed) - _SHOWN) > 0:
                terminalreporter.line(f"… and {more} more")


def watch(config: pytest.Config) -> None:
    """Takes the machine down as it is, where tests are to run that could change it."""
    is_worker = hasattr(config, "workerinput")
    if os.geteuid() == 0 and not is_worker and not config.getoption("--collect-only"):
        config.pluginmanager.register(Untouched(snapshot()), "testbed-host-untouched")
