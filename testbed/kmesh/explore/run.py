"""Runs state machines by a seed: a number of programs, or as long as there is time."""

from __future__ import annotations

import math
import random
import time

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from testbed.kmesh.explore.machine import Rules
from testbed.kmesh.explore.shrink import shortest
from testbed.kmesh.explore.stage import Failure, Stage, Stopped

STEPS = 30
"""As many acts has a program, at most."""
_ROUND = 100  # programs by one seed; those of the next round are of another one


def explore_for(stage: Stage, number: int, seconds: float) -> Failure | None:
    """Explores by a seed until a program fails, or the seconds are over. The same seed, the same programs."""
    stage.journal.end = time.monotonic() + seconds
    numbers = random.Random(number)  # noqa: S311 (to be repeated, not to be kept secret)
    try:
        while time.monotonic() < stage.journal.end:
            if failure := explore(stage, numbers.getrandbits(64), _ROUND):
                return failure
        return None
    finally:
        stage.journal.end = math.inf


def explore(stage: Stage, number: int, programs: int, steps: int = STEPS) -> Failure | None:
    """Runs so many programs of so many acts by a seed.

    Returns the failure, shrunk to the shortest program, if there is one. `TestbedError` when
    something else than the set under test is at fault.
    """
    how = settings(
        max_examples=programs,
        stateful_step_count=steps,
        deadline=None,  # a machine that is busy is no failure
        database=None,  # each run is the same, whatever was run before
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        phases=(Phase.generate,),  # shrinking is done by `shortest`
        suppress_health_check=[HealthCheck.too_slow],  # each program has a lab made for it
    )
    stage.journal.forget()

    @seed(number)
    class OnStage(Rules):
        def __init__(self) -> None:
            super().__init__(stage)

    try:
        run_state_machine_as_test(OnStage, settings=how)
    except Stopped as stopped:
        if stopped.__cause__ is not None:
            raise stopped.__cause__ from None
    except Exception:
        if stage.journal.failure is None:
            raise  # not of one of our programs
        return shortest(stage, stage.journal.failure)
    return None
