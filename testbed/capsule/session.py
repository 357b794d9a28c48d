"""One scenario again and again, in one pytest session: all that is made once a run is made once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testbed.capsule.rate import Tally
from testbed.capsule.unpack import UnderTest
from testbed.errors import MachineError, TestbedError, UsageError, command
from testbed.report.results import Collector, short_name
from testbed.report.session import Selection, only_ours

_SEEDED = ("-p", "_hypothesis_pytestplugin")


@dataclass(frozen=True)
class Wanted:
    """The scenario by its node id, whose ``family`` is the only one that is collected, if it has one.

    ``test`` is the file of a test that is not shipped: only what stands behind the file's name is
    compared then. ``seed`` is Hypothesis's.
    """

    nodeid: str
    family: str = ""
    test: Path | None = None
    seed: int | None = None

    def among(self, items: Sequence[pytest.Item]) -> pytest.Item | None:
        """The item that it is."""
        return next((item for item in items if self._key(item.nodeid) == self._key(self.nodeid)), None)

    def _key(self, nodeid: str) -> str:
        return nodeid if self.test is None else nodeid.partition("::")[2]


@dataclass
class Repeat:
    """A pytest plugin that runs one item so many times; ``on_run`` is called after each."""

    wanted: Wanted
    times: int
    tally: Tally
    collector: Collector
    on_run: Callable[[], None]
    unknown: UsageError | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if self.collector.collection_errors:
            return True
        item = self.wanted.among(session.items)
        if item is None:
            self.unknown = _unknown(self.wanted, [each.nodeid for each in session.items])
            return True
        properties = len(item.user_properties)
        for number in range(self.times):
            # what comes next is the module: so all that is of the item ends, and all else stays
            following: Any = item.parent if number + 1 < self.times else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            result = self.collector.results.pop(item.nodeid)
            if self.collector.fatal is not None:
                break
            self.tally.add(result.outcome, result.violated, result.details)
            del item.user_properties[properties:]
            item._report_sections.clear()
            self.on_run()
        return True


def repeat(wanted: Wanted, under_test: UnderTest, options: Selection, repeated: Repeat) -> bool:
    """Runs it, and tells whether Ctrl-C ended it; the tally has what has been run by then.

    `UsageError` for a scenario that is not there, `TestbedError` when nothing could run.
    """
    collector = repeated.collector
    with only_ours():
        code = pytest.main(_arguments(wanted, under_test, options), plugins=[collector, repeated])
    if collector.fatal is not None:
        raise collector.fatal
    if collector.collection_errors:
        details = "\n".join(collector.collection_errors)
        raise MachineError("collect the scenario", "its file cannot be imported", "", details)
    if code == pytest.ExitCode.INTERRUPTED:
        return True
    if repeated.unknown is not None:
        raise repeated.unknown
    if code == pytest.ExitCode.USAGE_ERROR:
        raise UsageError("collect the scenario", "an option is wrong (see the line above)")
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise _unknown(wanted, [])
    if code == pytest.ExitCode.INTERNAL_ERROR:
        raise TestbedError("run the scenario", "pytest failed within itself", "please report it")
    return False


def _arguments(wanted: Wanted, under_test: UnderTest, options: Selection) -> list[str]:
    words = Selection(
        families=wanted.family,
        abi=under_test.abi,
        objects=under_test.objects,
        tail_calls=options.tail_calls if under_test.objects else (),
        inner_maps=options.inner_maps if under_test.objects else (),
    ).arguments()
    if wanted.test is not None:
        file = wanted.test.resolve()
        words = [str(file), "-c", os.devnull, "--rootdir", str(file.parent), *words[words.index("--tb") :]]
    if wanted.seed is not None:
        words += [*_SEEDED, f"--hypothesis-seed={wanted.seed}"]
    return words


def _unknown(wanted: Wanted, nodeids: Sequence[str]) -> UsageError:
    name = short_name(wanted.nodeid)
    names = {short_name(nodeid): nodeid for nodeid in nodeids}
    close = difflib.get_close_matches(name, names, 1, 0.6)
    where = f" in {wanted.test.name}" if wanted.test is not None else ""
    return UsageError(
        f"find the scenario {name}",
        f"there is none of that name{where}; another version may call it otherwise",
        f"did you mean {close[0]}?" if close else f"`{command('check --list')}` shows those that there are",
    )
