"""The contract's scenarios, collected once; what is to be done with them is done in that pytest session."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import testbed.kmesh.scenarios
from testbed.errors import MachineError, TestbedError, UsageError
from testbed.report.about import about
from testbed.report.results import short_name

_PRINTED_NAME = re.compile(r"(\w+)::([\w\[\]-]+)")
SCENARIOS = Path(testbed.kmesh.scenarios.__file__).parent


@dataclass(frozen=True)
class Selection:
    """Which scenarios, on which interface: as the options of ``testbed check``."""

    abi: str
    families: str
    expression: str = ""
    tail_calls: tuple[str, ...] = ()
    inner_maps: tuple[str, ...] = ()
    objects: tuple[Path, ...] = ()

    def arguments(self) -> list[str]:
        words = [
            *(str(SCENARIOS), "-c", os.devnull, "--rootdir", str(SCENARIOS), "-s", "--tb", "short"),
            *("-p", "testbed.pytest_plugin", "-p", "testbed.pytest_objects", "-p", "no:cacheprovider"),
            *("--abi", self.abi),
        ]
        if self.families:
            words += ["--family", self.families]
        if self.expression:
            # a name as it is printed, 4_close::x[v4], is in a module and in a test
            words += ["-k", _PRINTED_NAME.sub(r"(\1 and \2)", self.expression)]
        for option, values in (
            ("--object", self.objects),
            ("--tail-call", self.tail_calls),
            ("--inner-map", self.inner_maps),
        ):
            for value in values:
                words += [option, str(value)]
        return words


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


@contextmanager
def _only_ours() -> Iterator[None]:
    """No plugin or option that a person's own pytest runs have."""
    before = dict(os.environ)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def with_scenarios(selection: Selection, work: Callable[[pytest.Session], None]) -> None:
    """Collects the scenarios and does ``work`` with the session, whose items they are.

    `UsageError` where none is selected, `MachineError` where they cannot be imported, and whatever
    ``work`` raises.
    """
    driver = _Driver(work)
    with _only_ours():
        code = pytest.main(selection.arguments(), plugins=[driver])
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
