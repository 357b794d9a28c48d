"""The pytest plugin, recording: a failing test tells what happened, connection by connection.

While a test with a lab runs, everything in it is taken down (`testbed.observe.recorder`). It is put
together when the test has failed, or always with ``--record all``, told, and kept in a run's folder;
``--record off`` does without. As in `testbed.pytest_plugin`, heavy imports are made where they are needed.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from testbed.errors import TestbedError, UsageError, command, file_error
from testbed.report.about import VIOLATED, sent_along
from testbed.report.recording import (
    CAPSULE,
    HELD,
    HELD_LAB,
    ITEM,
    KEPT,
    KEPT_RUN,
    MODES,
    STORY_SECTION,
    UNKEPT,
    Recording,
    drawn,
    end_recording,
    forget,
    held_words,
    need_folders,
    recorder_of,
    story_of,
    tell,
    violations_by,
)
from testbed.scratch import scratch_folder

if TYPE_CHECKING:
    from testbed.bpf.elf.loader import ObjectLoader
    from testbed.capsule.keeping import Keeping
    from testbed.observe.recorder import Recorder
    from testbed.observe.tap import Tap
    from testbed.runs.model import Verdict

_HOLDS: pytest.StashKey[Path] = pytest.StashKey()
_KEEPING: pytest.StashKey[Keeping] = pytest.StashKey()
_ROWS = "testbed-rows"
_UNKEPT = "testbed_unkept"  # a report's user property: why its story could not be kept
_WORKER_RUN, _PROGRAMS, _WORKER_HOLDS = "testbed_run", "testbed_programs", "testbed_holds"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testbed", "sockops testbed")
    group.addoption(
        "--record",
        choices=MODES,
        default="failures",
        help="whose stories are kept: those of failures (default), all, or none: nothing is recorded then",
    )
    group.addoption(
        "--run", type=Path, metavar="DIR", help="where stories are kept (default: among the runs)"
    )
    group.addoption(
        "--capsule", type=Path, metavar="DIR", help="write a capsule of every failure into this directory"
    )
    group.addoption(
        "--hold-on-fail", action="store_true", help="leave the lab of the first failure up, and end the run"
    )
    for option in ("--under-test", "--asked-by"):  # what a command of ours says of itself
        group.addoption(option, default="", help=argparse.SUPPRESS)


def pytest_configure(config: pytest.Config) -> None:
    try:
        need_folders(config.getoption("--record"), config.getoption("--run"), config.getoption("--capsule"))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Rows(), _ROWS)


def _keeping(config: pytest.Config) -> Keeping:
    if _KEEPING not in config.stash:
        from testbed.capsule.keeping import Keeping

        folder = getattr(config, "workerinput", {}).get(_WORKER_RUN)
        config.stash[_KEEPING] = Keeping(config, Path(folder) if folder else None)
    return config.stash[_KEEPING]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist's workers add to one run, which is begun here, and one of them holds a lab."""
    if node.config.getoption("--hold-on-fail"):
        if _HOLDS not in node.config.stash:
            stack = ExitStack()
            node.config.add_cleanup(stack.close)
            node.config.stash[_HOLDS] = stack.enter_context(scratch_folder("held"))
        node.workerinput[_WORKER_HOLDS] = str(node.config.stash[_HOLDS])
    if node.config.getoption("--record") != "off":
        with suppress(TestbedError):  # each worker tries itself then, and says why not with its failures
            node.workerinput[_WORKER_RUN] = str(_keeping(node.config).begin())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each of xdist's workers has loaded the same programs."""
    told = getattr(node, "workeroutput", {}).get(_PROGRAMS, [])
    if told:
        from testbed.runs.model import Program

        _keeping(node.config).note_programs([Program(*each) for each in told])


@pytest.fixture(scope="session")
def recording(pytestconfig: pytest.Config, object_loader: ObjectLoader) -> Iterator[Recording]:
    """The programs that record, loaded once a run; none of them with ``--record off``."""
    mode = pytestconfig.getoption("--record")
    if mode == "off":
        yield Recording(mode)
        return
    from testbed.observe.capture import CaptureProgram, capture_absent
    from testbed.observe.states import StatesProgram, states_absent

    _keeping(pytestconfig)
    with ExitStack() as stack:
        program = None if capture_absent() else CaptureProgram(object_loader, whole=False)
        capture = stack.enter_context(program) if program is not None else None
        states = None if states_absent() else stack.enter_context(StatesProgram(object_loader))
        absent = tuple(filter(None, (capture_absent(), states_absent())))
        yield Recording(mode, capture, states, absent)


@pytest.fixture
def recorder(pytestconfig: pytest.Config, tap: Tap) -> Recorder:  # noqa: ARG001 (it is recorded from there on)
    """What is recorded of the test's lab. `UsageError` with ``--record off``."""
    found = recorder_of(pytestconfig.stash[ITEM])
    if found is None:
        raise UsageError("tell what happened", "nothing is recorded", "leave --record off out")
    return found


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _KEEPING in item.config.stash:
        item.config.stash[_KEEPING].test_begins()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "setup" or report.skipped:
        return report
    try:
        _keep(item, call, report)
    except (TestbedError, OSError) as problem:  # a full disk, for example: told once, by who started the run
        why = problem if isinstance(problem, TestbedError) else file_error("keep a story", problem)
        report.user_properties.append((_UNKEPT, str(why)))
    except Exception:  # noqa: BLE001 (a test's verdict counts more than its story)
        told = f"the story could not be told, by a mistake of the testbed's own:\n{traceback.format_exc()}"
        report.sections.append((STORY_SECTION, told))
    if report.when == "teardown":
        forget(item)
    if report.when == "call" and report.failed and item.config.getoption("--hold-on-fail"):
        _hold(item, report)
    return report


def _keep(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Has the story told and kept, where there is one to tell."""
    error = call.excinfo.value if call.excinfo is not None else None
    if report.when == "call" and (report.failed or item.config.getoption("--record") == "all"):
        violations = violations_by(item, error) if report.failed else ()
        told = str(error) if error is not None else ""
        tell(item, report.outcome, told, [each.difference() for each in violations])
    found = story_of(item)
    if found is None or (report.when == "teardown" and report.passed):
        return
    story, packets = found
    if report.failed and not isinstance(error, TestbedError):
        report.longrepr = getattr(error, "told", report.longrepr)
        report.sections.append((STORY_SECTION, drawn(story)))
    kinds = tuple(dict.fromkeys(each.kind for each in story.differences))
    if kinds and VIOLATED not in dict(report.user_properties):
        report.user_properties.append((VIOLATED, json.dumps(kinds)))
    keeping = _keeping(item.config)
    keeping.note_mesh(item)
    if hasattr(item.config, "workeroutput"):
        item.config.workeroutput[_PROGRAMS] = [astuple(each) for each in keeping.programs]
    report.user_properties.append((KEPT, keeping.keep(story, packets)))
    capsule = keeping.encapsulate(item, story, packets, kinds)
    if capsule is not None:
        report.user_properties.append((CAPSULE, str(capsule)))


def _hold(item: pytest.Item, report: pytest.TestReport) -> None:
    """The lab of a test that has failed stays up as it is; the run ends, as the programs stay in it."""
    given = getattr(item, "funcargs", {})
    lab = given.get("lab")
    if lab is None or item.session.shouldstop:
        return
    from testbed.keeper.hold import keep_in_child

    if not _is_first(item.config):
        return
    end_recording(item)
    name = keep_in_child(lab, given.get("mesh"), given.get("tap"), item.name.removeprefix("test_"))
    item.stash[HELD_LAB] = name
    report.user_properties.append((HELD, f"{name} {next(iter(lab.hosts))}"))
    item.session.shouldstop = f"a lab is held: {name}"


def _is_first(config: pytest.Config) -> bool:
    """Whether no other of xdist's workers has left a lab up: the first that makes the file has."""
    folder = getattr(config, "workerinput", {}).get(_WORKER_HOLDS)
    if folder is None:
        return True
    try:
        Path(folder, "held").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class _Rows:
    """In the process that a person started: the verdicts of the run, from wherever they come."""

    def __init__(self) -> None:
        self._rows: dict[str, Verdict] = {}
        self.held = ""
        self.unkept = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        from testbed.capsule.keeping import verdict_of

        properties = dict(report.user_properties)
        self.held = self.held or str(properties.get(HELD, ""))
        self.unkept = self.unkept or str(properties.get(_UNKEPT, ""))
        if report.when != "call" and report.passed:
            return
        story = properties.get(KEPT)
        self._rows[report.nodeid] = verdict_of(
            report,
            sent_along(report.nodeid, report.user_properties),
            story if isinstance(story, int) else None,
        )

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        keeping = session.config.stash.get(_KEEPING, None)
        if keeping is None:
            return
        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
        try:
            folder = keeping.end([*self._rows.values()], interrupted=interrupted)
        except KeyboardInterrupt:  # for one that comes so late, pytest itself has nothing but a traceback
            folder = None
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        except (TestbedError, OSError) as problem:  # the verdicts themselves are still to be told
            folder = None
            told = problem if isinstance(problem, TestbedError) else file_error("keep the run", problem)
            self.unkept = self.unkept or str(told)
        if self.unkept:
            session.config.stash[UNKEPT] = self.unkept
        if folder is not None:
            session.config.stash[KEPT_RUN] = folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Where the stories are, and the lab that is left up."""
    if KEPT_RUN in config.stash:
        terminalreporter.section("stories")
        terminalreporter.write_line(f"kept in {config.stash[KEPT_RUN]}: {command('story last')}")
    if UNKEPT in config.stash:
        terminalreporter.section("not every story is kept")
        terminalreporter.write_line(f"cannot {config.stash[UNKEPT]}")
    rows = config.pluginmanager.get_plugin(_ROWS)
    if rows is not None and rows.held:
        terminalreporter.section("held")
        terminalreporter.write_line(held_words(rows.held))
