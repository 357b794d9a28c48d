"""A campaign: the unchanged set first, then each mutant, until every one has its verdict."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from testbed.errors import ExitCode, ProgramError, TestbedError
from testbed.kernel.cgroup import cgroup_root
from testbed.kernel.ownership import reap
from testbed.mutants.model import Built, Failure, Mutant, Result, Verdict
from testbed.mutants.order import Order
from testbed.mutants.pool import Ended, Pool
from testbed.mutants.runs import Run
from testbed.mutants.suite import check_names, scenario_names
from testbed.scratch import tidy_scratch

DEADLINE_S = 60.0
_OF_REFERENCE_S = 600.0
_SLOWER = 5  # a mutant may take so many times what the unchanged set takes
_LONGER = 20  # where all scenarios run: those that fail wait for what does not come
_TICK_S = 0.2
Step = Callable[[str], None]
Objects = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Baseline:
    """The unchanged set: the scenarios that pass on it, by number, those that fail, and the seconds."""

    passing: tuple[int, ...]
    failing: tuple[Failure, ...]
    seconds: float


class Campaign:
    """Runs in a pytest session with the scenarios collected. ``step`` is told what has been done."""

    def __init__(self, session: pytest.Session, at_once: int, step: Step) -> None:
        self.checks = check_names(session.items)
        self.scenarios = scenario_names(session.items)
        self._session = session
        self._at_once = at_once
        self._step = step
        self._rejected: frozenset[str] = frozenset()

    def baseline(self, objects: Objects) -> Baseline:
        """Runs the unchanged set. `TestbedError` where that is no run: no verdict would mean anything."""
        everything = tuple(range(len(self.checks)))
        with self._pool() as pool:
            pool.start(Run(0, objects, everything, _OF_REFERENCE_S, until_failure=False))
            (ended,) = self._all(pool)
        if ended.how != "end":
            raise TestbedError("run the scenarios on the unchanged programs", ended.reason)
        self._rejected = ended.rejected
        _import_once(ended.modules)
        failing = {failure.item for failure in ended.failures}
        passing = tuple(item for item in everything if item not in failing)
        return Baseline(passing, ended.failures, ended.seconds)

    def again(self, objects: Objects, times: int) -> list[Ended]:
        """Runs the unchanged set as often as asked for."""
        order = tuple(range(len(self.checks)))
        found: list[Ended] = []
        left = list(range(times))
        with self._pool() as pool:
            while left or pool.busy:
                while left and pool.free:
                    pool.start(Run(left.pop(0), objects, order, _OF_REFERENCE_S, until_failure=False))
                for ended in pool.wait(_TICK_S):
                    found.append(ended)
                    self._step("run")
        return sorted(found, key=lambda ended: ended.key)

    def run(self, mutants: Sequence[Built], baseline: Baseline, *, everything: bool) -> list[Result]:
        """The verdicts, in the order of the mutants. ``everything``: not only until the first failure."""
        order = Order(len(baseline.passing))
        place = {item: number for number, item in enumerate(baseline.passing)}
        results: dict[int, Result] = {}
        times = _LONGER if everything else _SLOWER
        deadline = max(DEADLINE_S, times * baseline.seconds)
        following = 0
        with self._pool() as pool:
            while following < len(mutants) or pool.busy:
                while following < len(mutants) and pool.free and order.ready(following):
                    built = mutants[following]
                    numbers = order.of(following, built.mutant.file)
                    items = (
                        baseline.passing
                        if everything
                        else tuple(baseline.passing[number] for number in numbers)
                    )
                    pool.start(Run(following, built.objects, items, deadline, until_failure=not everything))
                    following += 1
                for ended in pool.wait(_TICK_S):
                    mutant = mutants[ended.key].mutant
                    result = results[ended.key] = verdict(mutant, ended)
                    order.learn(ended.key, mutant.file, place[result.by[0].item] if result.by else None)
                    self._step(result.verdict.value)
                self._step("")
        return [results[number] for number in range(len(mutants))]

    def _all(self, pool: Pool) -> list[Ended]:
        found: list[Ended] = []
        while pool.busy:
            found += pool.wait(_TICK_S)
            self._step("")
        return found

    def _pool(self) -> Pool:
        pool = Pool(self._session, self._at_once)
        pool.rejected = self._rejected
        return pool


def _import_once(modules: Sequence[str]) -> None:
    """Imports here what a run imported for itself: the next children need not."""
    for name in modules:
        if name.startswith("testbed."):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page


def verdict(mutant: Mutant, ended: Ended) -> Result:
    """What a run says of a mutant. Where it hung, the scenario that did not end has killed it."""
    found, by = Verdict.SURVIVED, ended.failures
    if ended.how == "invalid":
        found, by = Verdict.INVALID, ()
    elif ended.how == "error":
        found, by = Verdict.ERROR, ()
    elif by:
        found = Verdict.KILLED
    elif ended.how == "deadline":
        by = (Failure(ended.last, ended.reason),) if ended.last >= 0 else ()
        found = Verdict.KILLED if by else Verdict.ERROR
    return Result(mutant, found, by, ended.reason, ended.ran, ended.seconds)


def remove_what_the_killed_left() -> None:
    """A run that was over its deadline could not remove its cgroup."""
    with cgroup_root() as root:
        reap(root, strict=False)
    tidy_scratch()


class UnchangedFails(ProgramError):
    """The unchanged programs fail a scenario: then a failure of a mutant means nothing."""

    exit_code = ExitCode.FAILED


def demand_all_pass(baseline: Baseline, scenarios: Sequence[str]) -> None:
    """`UnchangedFails` names the scenarios that fail."""
    if baseline.failing:
        names = "\n".join(f"{scenarios[failure.item]}: {failure.why}" for failure in baseline.failing)
        count = len(baseline.failing)
        raise UnchangedFails(
            "measure what the scenarios catch",
            f"{count} of {len(scenarios)} fail{'s' if count == 1 else ''} on the unchanged programs",
            "mend that first",
            names,
        )
