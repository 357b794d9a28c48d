"""The contract's scenarios, collected once; what is to be done with them is done in that pytest session."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from testbed.errors import MachineError, TestbedError, UsageError
from testbed.report.about import about
from testbed.report.results import short_name
from testbed.report.session import Selection, only_ours


class _Driver:
    """A pytest plugin that does ``work`` where pytest would run the scenarios."""

    def __init__(self, work: Callable[[pytest.Session], None]) -> None:
        self._work = work
        self.problems: list[str] = []
        self.error: BaseException | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        reporter = config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            config.pluginmanager.unregister(reporter)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.problems.append(report.longreprtext)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.items and not self.problems:
            try:
                self._work(session)
            except BaseException as error:  # noqa: BLE001 (raised again behind pytest, which would report it as its own)
                self.error = error
        return True


def with_scenarios(selection: Selection, work: Callable[[pytest.Session], None]) -> None:
    """Collects the scenarios and does ``work`` with the session, whose items they are.

    `UsageError` where none is selected, `MachineError` where they cannot be imported, and whatever
    ``work`` raises.
    """
    driver = _Driver(work)
    with only_ours():
        code = pytest.main([*selection.arguments(), "-s"], plugins=[driver])
    if driver.error is not None:
        raise driver.error
    if driver.problems:
        raise MachineError("collect the scenarios", "they cannot be imported", "", "\n".join(driver.problems))
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise UsageError(f"find scenarios that match -k {selection.expression!r}", "there is none")
    if code == pytest.ExitCode.USAGE_ERROR:
        raise UsageError("collect the scenarios", "an option is wrong (see the line above)")
    if code != pytest.ExitCode.OK:
        raise TestbedError("collect the scenarios", "pytest failed within itself", "please report it")


def check_names(items: Sequence[pytest.Item]) -> list[str]:
    """Of each scenario the check that it is of: a row of the table of verdicts, whatever the family."""
    names = []
    for item in items:
        what = about(item)
        name = short_name(item.nodeid).partition("[")[0]
        variant = what.variant or what.row
        names.append(f"{name}[{variant}]" if variant else name)
    return names


def scenario_names(items: Sequence[pytest.Item]) -> list[str]:
    """Of each scenario its name as `testbed check --list` prints it."""
    return [short_name(item.nodeid) for item in items]
