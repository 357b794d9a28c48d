"""The scenarios as this machine collects them: the guest, which has the same ones, is told numbers alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from threading import Lock

import pytest

from testbed.errors import MachineError, UsageError, command
from testbed.report.about import About
from testbed.report.results import Collector
from testbed.report.session import Selection, only_ours


@dataclass(frozen=True)
class Scenario:
    """One scenario in one family, as in `testbed.report.results.Result`."""

    nodeid: str
    about: About
    place: tuple[str, int]


_ONE_AT_A_TIME = Lock()  # pytest's own state is the process's


def collect(selection: Selection) -> tuple[Scenario, ...]:
    """The scenarios of a selection, in their order; also from threads. `UsageError` when there is none."""
    with _ONE_AT_A_TIME:
        return _collect(selection)


@cache
def _collect(selection: Selection) -> tuple[Scenario, ...]:
    gathered = _Gathered()
    collector = Collector()
    arguments = [*replace(selection, objects=(), abi="").arguments(), "--collect-only"]
    with only_ours():
        code = pytest.main(arguments, plugins=[collector, gathered])
    if collector.collection_errors:
        raise MachineError(
            "collect the scenarios", "they cannot be imported", "", "\n".join(collector.collection_errors)
        )
    if code == pytest.ExitCode.USAGE_ERROR:
        raise UsageError(f"read -k {selection.expression!r}", "it is no expression (see the line above)")
    if not gathered.scenarios:
        raise UsageError(
            f"find scenarios that match -k {selection.expression!r}",
            "there is none",
            f"`{command('check --list')}` shows them all",
        )
    return tuple(gathered.scenarios)


class _Gathered:
    def __init__(self) -> None:
        self.scenarios: list[Scenario] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        from testbed.report.about import about

        for item in session.items:
            path, line, _ = item.location
            self.scenarios.append(Scenario(item.nodeid, about(item), (path, line or 0)))
