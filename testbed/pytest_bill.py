"""The pytest plugin, the leak bill: a test that leaves something behind fails, and the line is named.

What is there before and after each test is compared (`testbed.bill`), its fixtures' teardown included;
fixtures of broader scope have a bill of their own when they end. ``--no-leak-bill`` does without.
``@pytest.mark.keeps("reason")`` is for a test that leaves something on purpose.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from _pytest import outcomes

from testbed.report.recording import HELD_LAB

_TOLD: pytest.StashKey[list[str]] = pytest.StashKey()
_PLUGIN = "testbed-bills"
_KEPT = "leak-bill-kept"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("testbed", "sockops testbed").addoption(
        "--no-leak-bill", action="store_true", help="do not look for what tests leave behind"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "keeps(reason): the test leaves something behind on purpose")


@pytest.hookimpl(trylast=True)  # xdist says by then whether it starts workers
def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    if config.getoption("--no-leak-bill") or config.getoption("collectonly"):
        return
    if config.pluginmanager.has_plugin("dsession"):
        config.pluginmanager.register(_Whole(), _PLUGIN)
    else:
        config.pluginmanager.register(_Bills(config), _PLUGIN)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was kept on purpose, and what nobody in particular has left."""
    reports = [
        each for kind in terminalreporter.stats.values() for each in kind if hasattr(each, "user_properties")
    ]
    kept = [
        f"{each.nodeid} {text}" for each in reports for name, text in each.user_properties if name == _KEPT
    ]
    lines = [*config.stash.get(_TOLD, []), *kept]
    if lines:
        terminalreporter.section("leak bill")
        for line in lines:
            terminalreporter.write_line(line)


def _is_pytests(config: pytest.Config) -> Callable[[str], bool]:
    """Whether a path is of pytest's own temporary folders."""
    base = config.getoption("basetemp", None)
    own = (f"{os.path.abspath(base)}/",) if base else ()  # noqa: PTH100 (nothing is resolved)
    return lambda path: "/pytest-of-" in path or path.startswith(own)


def _temporary(config: pytest.Config) -> Callable[[str], bool]:
    """Whether a path is where temporary files are: not pytest's own, nor of a project or home there."""
    named = tempfile.gettempdir()
    within = tuple(f"{place}/" for place in {named, os.path.realpath(named), "/tmp", "/var/tmp", "/dev/shm"})  # noqa: S108
    places = (f"{config.rootpath}/", f"{os.path.expanduser('~')}/")  # noqa: PTH111 (there may be no home)
    own = tuple(each for each in places if each.startswith(within) and each not in within)
    is_pytests = _is_pytests(config)

    def is_temporary(path: str) -> bool:
        return (
            path.startswith(within)
            and not path.startswith(own)
            and "/__pycache__" not in path
            and not is_pytests(path)
        )

    return is_temporary


class _Bills:
    """Of each test, in the process that runs it."""

    def __init__(self, config: pytest.Config) -> None:
        from testbed.bill.ledger import Ledger
        from testbed.bill.machine import Machine
        from testbed.bill.orphans import mark
        from testbed.bill.trace import the_trace
        from testbed.bill.unsaid import saying

        trace = the_trace()
        trace.is_temporary, trace.is_pytests = _temporary(config), _is_pytests(config)
        self._undo = ExitStack()
        machine = None
        if not hasattr(config, "workerinput"):
            machine = Machine()
            self._undo.callback(machine.close)
        self._undo.enter_context(saying(trace))
        self._ledger = Ledger(trace, machine, mark())
        self._failed = False
        self._off = False
        self._begun = False
        self._config = config

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, Any]:
        self._failed = False
        self._ledger.begin()
        self._begun = True
        try:
            return (yield)
        finally:
            self._begun = False
            self._ledger.end()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        code = getattr(fixturedef.func, "__code__", None)
        with self._ledger.setting_up(fixturedef, _name(fixturedef, request), code):
            return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        self._ledger.finalized(fixturedef)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        is_skipped = report.skipped and not hasattr(report, "wasxfail")
        self._failed = self._failed or (call.excinfo is not None and not is_skipped)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        try:
            yield
        except (Exception, outcomes.OutcomeException) as error:
            self._failed = True
            if text := self._bill(item):  # beside what went wrong: it is often why
                error.add_note(text)
            raise
        if text := self._bill(item):
            pytest.fail(text, pytrace=False)

    def _bill(self, item: pytest.Item) -> str:
        """What a test has left, in words; empty where it has not, or is to leave it."""
        if HELD_LAB in item.stash:
            self._off = True  # the lab is another process's now, and this one ends
        if self._off or not self._begun:  # who runs tests without pytest's protocol has no bill
            return ""
        from testbed.bill.bill import OUTLIVE, told

        bills = self._ledger.bills()
        if self._failed:  # its traceback keeps what its frames hold
            bills = [each.only(OUTLIVE) if each.is_of_test else each for each in bills]
        text = "\n".join(told(each.who, each.left) for each in bills if each.left)
        marker = item.get_closest_marker("keeps")
        if text and marker is not None and all(each.is_of_test for each in bills):
            reason = marker.args[0] if marker.args else "no reason given"
            item.user_properties.append((_KEPT, f"keeps on purpose, {reason}: {text}"))
            return ""
        return text

    def pytest_sessionfinish(self) -> None:
        if self._ledger.unclear:
            from testbed.bill.bill import told

            text = told("somebody, perhaps another run that was at work meanwhile,", self._ledger.unclear)
            self._config.stash[_TOLD] = text.splitlines()

    def pytest_unconfigure(self) -> None:
        self._undo.close()


class _Whole:
    """Of the machine, in the process that has started workers: which of them it was, nobody can tell."""

    def __init__(self) -> None:
        from testbed.bill.machine import Machine

        self._machine = Machine()
        self._before = self._machine.take()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        from testbed.bill.bill import Left, told
        from testbed.bill.machine import others_live

        left = [Left(each, None) for each in sorted(self._machine.take() - self._before)]
        if not left:
            return
        session.config.stash[_TOLD] = told("the tests, or somebody meanwhile,", left).splitlines()
        if not others_live() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self) -> None:
        self._machine.close()


def _name(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> str:
    code = getattr(fixturedef.func, "__code__", None)
    where = f", {_shown(code.co_filename, request)}:{code.co_firstlineno}" if code is not None else ""
    return f"the fixture {fixturedef.argname} ({fixturedef.scope} scope{where})"


def _shown(file: str, request: pytest.FixtureRequest) -> str:
    path = Path(file)
    root = request.config.rootpath
    return str(path.relative_to(root)) if path.is_relative_to(root) else file
