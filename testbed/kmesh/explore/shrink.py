"""From a program that fails to the shortest one that still fails so.

Hypothesis could do it, by simpler choices of its own: measured, that took 500 programs, and left acts
in place that are of no account. Here acts are left out, then their arguments are made simpler, until
nothing more can go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from testbed.errors import UsageError
from testbed.kmesh.explore.stage import Failure, Stage, Step

_NAME = re.compile(r"c\d+")
_SIMPLER: dict[object, object] = {
    "v6": "v4",
    "mapped": "v4",
    "mapped-client": "v4",
    5000: 1,
    100: 1,
    "deny": "allow",
}
_Steps = tuple[Step, ...]


def attempt(stage: Stage, steps: _Steps) -> Failure | None:
    """Runs a program in a lab of its own. None where it passes, or is none: an act that is not possible."""
    connections = 0
    try:
        with ExitStack() as undo:
            play = stage.play(undo)
            with play:
                for step in steps:
                    step.play(play)
                    connections = len(play.links)
    except UsageError:
        return None
    except Exception as error:  # noqa: BLE001 (that is what it is run for)
        return Failure(steps, error)
    finally:
        stage.journal.ran(len(steps), connections)
    return None


def shortest(stage: Stage, failure: Failure) -> Failure:
    """The shortest program found that fails alike. What does not fail again stays as it is, told so."""
    again = attempt(stage, failure.steps)
    if again is None or not _alike(again.error, failure.error):
        return Failure(failure.steps, failure.error, is_steady=False)
    best, before = again, None
    while best.steps != before:
        before = best.steps
        for ways in (_shorter, _simpler):
            while (found := _first(stage, ways(best.steps), best)) is not None:
                stage.journal.failure = best = found
    return _first(stage, _renamings(best.steps, list(stage.topology.hosts)), best) or best


def _first(stage: Stage, programs: Iterator[_Steps], best: Failure) -> Failure | None:
    for steps in programs:
        found = attempt(stage, steps)
        if found is not None and _alike(found.error, best.error):
            return found
    return None


def _alike(one: Exception, other: Exception) -> bool:
    """For one of the same reasons, or by the same kind of exception where it names none."""
    kinds, others = (set(getattr(error, "kinds", ())) for error in (one, other))
    return bool(kinds & others) if kinds or others else type(one) is type(other)


def _shorter(steps: _Steps) -> Iterator[_Steps]:
    """Without some acts in a row: the half, a quarter, …, one; the last ones first."""
    size = len(steps)
    while size := size // 2:
        for start in range(len(steps) - size, -1, -size):
            yield steps[:start] + steps[start + size :]
    if len(steps) == 1:
        yield ()


def _simpler(steps: _Steps) -> Iterator[_Steps]:
    """With simpler arguments: in all of the program, or in one act."""
    for value, simple in _SIMPLER.items():
        if any(value in step.arguments for step in steps):
            yield tuple(_with(step, value, simple) for step in steps)
            for place, step in enumerate(steps):
                if value in step.arguments:
                    yield (*steps[:place], _with(step, value, simple), *steps[place + 1 :])
    for place, step in enumerate(steps):
        if step.keywords:
            yield (*steps[:place], Step(step.act, step.arguments), *steps[place + 1 :])


def _with(step: Step, value: object, simple: object) -> Step:
    arguments = tuple(simple if each == value else each for each in step.arguments)
    return Step(step.act, arguments, step.keywords)


def _renamings(steps: _Steps, hosts: Sequence[str]) -> Iterator[_Steps]:
    """Of hosts and connections; of connections alone, where it is of account which hosts they are."""
    yield _renamed(steps, hosts)
    yield _renamed(steps, ())


def _renamed(steps: _Steps, hosts: Sequence[str]) -> _Steps:
    """With hosts and connections by the first names that there are, in the order in which they come."""
    names: dict[str, str] = {}
    free_hosts = iter(hosts)

    def rename(each: object) -> object:
        if not isinstance(each, str) or not (each in hosts or _NAME.fullmatch(each)):
            return each
        if each not in names:
            known = sum(1 for name in names if _NAME.fullmatch(name))
            names[each] = next(free_hosts) if each in hosts else f"c{known + 1}"
        return names[each]

    return tuple(Step(step.act, tuple(map(rename, step.arguments)), step.keywords) for step in steps)
