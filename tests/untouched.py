"""The machine before the whole session and after it: a difference fails the session."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from tests.host import Snapshot, differences, snapshot

_SHOWN = 40


@dataclass
class Untouched:
    """The plugin of a session; of xdist's, of the process that hands out the tests."""

    before: Snapshot
    changed: tuple[str, ...] = ()

    @pytest.hookimpl(trylast=True)  # the fixtures of the session are closed by then, and its workers gone
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.changed = tuple(differences(self.before, snapshot()))
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
