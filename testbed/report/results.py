"""Collects the verdicts of a pytest run: in this process, or in xdist's workers."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.errors import ExitCode, TestbedError, machine_error, ran_out
from testbed.logs import save_log
from testbed.report.about import SETUP_ERROR, STORY, VIOLATED, About, about, sent_along
from testbed.report.recording import CAPSULE, HELD, KEPT_RUN, STORY_SECTION, UNKEPT


@dataclass(frozen=True)
class Result:
    """One scenario in one family: ``outcome`` is passed, failed, skipped or error."""

    about: About
    nodeid: str
    place: tuple[str, int]
    outcome: str
    seconds: float
    details: str
    violated: tuple[str, ...] = ()
    """What of the contract was not kept, in kinds that scenarios share."""
    failed_at: str = ""
    """Where a test stopped: the file and the line of an assertion."""

    @property
    def alike(self) -> tuple[str, ...]:
        """What this failure has in common with others."""
        return self.violated or ((f"at {self.failed_at}",) if self.failed_at else ())


class Collector:
    """A pytest plugin that keeps every verdict. ``fatal`` is set when nothing could be run at all."""

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}
        self.stories: dict[str, object] = {}
        self.items: list[tuple[str, About]] = []
        self.collection_errors: list[str] = []
        self.capsules: list[str] = []
        self.kept: Path | None = None
        self.held = ""
        self.unkept = ""
        self._no_verdict: set[str] = set()
        self.fatal: TestbedError | None = None
        self._session: pytest.Session | None = None

    @property
    def verdicts(self) -> dict[str, Result]:
        """The results but those of tests that the machine kept from having one."""
        return {name: each for name, each in self.results.items() if name not in self._no_verdict}

    @property
    def has_verdicts(self) -> bool:
        return any(each.outcome in {"passed", "failed"} for each in self.verdicts.values()) or (
            bool(self.results) and self.fatal is None
        )

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        # Its options stay, its output is ours to make.
        reporter = config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            config.pluginmanager.unregister(reporter)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        self.kept = config.stash.get(KEPT_RUN, None)
        self.unkept = config.stash.get(UNKEPT, "")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = [(item.nodeid, about(item)) for item in session.items]

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
        """A hook has failed, ours or pytest's. True: pytest itself prints nothing of it."""
        error = excinfo.value
        if isinstance(error, TestbedError):
            self.fatal = error
        elif ran_out(error) is not None:
            self.fatal = machine_error("run the scenarios", error)
        else:
            log = save_log("internal-error", "".join(traceback.format_exception(error)))
            why = f"a fault in the testbed itself: {type(error).__name__}: {error}"
            self.fatal = TestbedError("run the scenarios", why, f"please report it, with {log}")
        return True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.collection_errors.append(report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if SETUP_ERROR in properties and self.fatal is None:
            code, *words = json.loads(str(properties[SETUP_ERROR]))
            self.fatal = TestbedError(*words)
            self.fatal.exit_code = ExitCode(code)
            assert self._session is not None, "reports come within a session"
            self._session.shouldstop = "nothing can be run"
        if SETUP_ERROR in properties:
            self._no_verdict.add(report.nodeid)
        self.held = self.held or str(properties.get(HELD, ""))
        if CAPSULE in properties:
            self.capsules.append(str(properties[CAPSULE]))
        if STORY in properties:
            self.stories[report.nodeid] = properties[STORY]
        outcome: str = report.outcome
        if report.failed and report.when != "call":
            outcome = "error"
        before = self.results.get(report.nodeid)
        if before is not None and (before.outcome != "passed" or outcome == "passed"):
            outcome, details = before.outcome, before.details
        else:
            details = _details(report)
        seconds = report.duration + (before.seconds if before else 0.0)
        path, line, _ = report.location
        self.results[report.nodeid] = Result(
            sent_along(report.nodeid, report.user_properties),
            report.nodeid,
            (path, line or 0),
            outcome,
            seconds,
            details,
            tuple(json.loads(str(properties.get(VIOLATED, "[]")))) or (before.violated if before else ()),
            _failed_at(report) or (before.failed_at if before else ""),
        )


def _text(report: pytest.TestReport) -> str:
    """Without the line that says which worker it was."""
    return "\n".join(line for line in report.longreprtext.splitlines() if not line.startswith("[gw"))


def _failed_at(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return f"{Path(crash.path).name}:{crash.lineno}" if report.failed and crash is not None else ""


def _details(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    parts = [_text(report)]
    parts += [text for name, text in report.sections if name in {"sockops callbacks", STORY_SECTION}]
    return "\n".join(parts)


def in_order(results: dict[str, Result]) -> list[Result]:
    """As they stand in the files, whoever was first."""
    return sorted(results.values(), key=lambda result: (result.place, result.nodeid))


def short_name(nodeid: str) -> str:
    """``4_close::closing_deletes_the_verdict[v4]``: `testbed check -k` finds it by this."""
    path, _, rest = nodeid.partition("::")
    return f"{Path(path).stem.removeprefix('test_')}::{rest.removeprefix('test_')}"
