"""The search for where a verdict changes: pure, in as few trials as there can be."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from enum import StrEnum


class Trial(StrEnum):
    """What one version turned out to be."""

    GOOD = "good"
    BAD = "bad"
    UNTESTED = "untested"
    """It could not be told: the guest did not get there, or everything was skipped."""


@dataclass(frozen=True)
class Found:
    """The last good and the first bad of a row of versions, and those between that could not be tested."""

    good: int
    bad: int
    untested: tuple[int, ...]


def search(count: int, trial: Callable[[int], Trial], series_ends: Set[int] = frozenset()) -> Found:
    """Of ``count`` versions the first is known to be good, the last to be bad. Where does it change?

    At most ceil(log2(count - 1)) trials where each version can be tested. Among the versions that keep
    to that, the last of a series goes before others: so the series is known first. One that cannot be
    tested is left out, for the nearest to the middle that can.
    """
    good, bad = 0, count - 1
    untested: set[int] = set()
    while (chosen := _next(good, bad, series_ends, untested)) is not None:
        verdict = trial(chosen)
        if verdict is Trial.GOOD:
            good = chosen
        elif verdict is Trial.BAD:
            bad = chosen
        else:
            untested.add(chosen)
    return Found(good, bad, tuple(sorted(index for index in untested if good < index < bad)))


def trials_left(good: int, bad: int) -> int:
    """How many trials tell a change between two versions, at most, if each of them can be tested."""
    return max(0, (bad - good - 1).bit_length())


def _next(good: int, bad: int, series_ends: Set[int], untested: Set[int]) -> int | None:
    middle = (good + bad) / 2
    between = [index for index in range(good + 1, bad) if index not in untested]
    if not between:
        return None
    half = 1 << max(0, trials_left(good, bad) - 1)  # changes that can be told with one trial less
    cheap = [index for index in between if index - good <= half and bad - index <= half]
    ends = [index for index in cheap if index in series_ends]
    return min(ends or cheap or between, key=lambda index: abs(index - middle))
