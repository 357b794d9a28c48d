"""Medians, and how far they can be trusted: without an assumption of how the noise is distributed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

CONFIDENCE = 0.99
LEAST = 8  # values: of fewer, not even the lowest and the highest have the median between them that surely


@dataclass(frozen=True)
class Figure:
    """The median of ``count`` values, and between which two of them the true one lies, 99 times of 100."""

    median: float
    low: float
    high: float
    count: int

    @property
    def noise(self) -> float:
        """How far it may be off, as a part of the median: 0.02 is ± 2 %."""
        if not self.median:
            return 0.0
        return max(self.high - self.median, self.median - self.low) / abs(self.median)


def rank(count: int) -> int:
    """The place of the lower end among so many sorted values, from 0; the upper one is as far from the end.

    By the binomial distribution: each value is below the true median with probability ½.
    """
    below, place = 0.0, 0
    total = 2.0**count if count < 1000 else math.inf
    if math.isinf(total):  # as good as normal there
        return max(int(count / 2 - statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * count**0.5 / 2), 0)
    while True:
        below += math.comb(count, place) / total
        if 2 * below > 1 - CONFIDENCE:
            return max(place - 1, 0)
        place += 1


def figure(values: Sequence[float]) -> Figure:
    """The median of values, of which there is one at least."""
    found = sorted(values)
    place = rank(len(found))
    return Figure(statistics.median(found), found[place], found[-1 - place], len(found))


def figure_of(passes: Sequence[Sequence[float]]) -> Figure:
    """The median of values that come in passes, each with the programs loaded anew.

    Where in memory a program happens to lie is the same for a whole pass: the interval is as wide, at
    least, as the medians of the passes are apart.
    """
    found = figure([one for each in passes for one in each])
    medians = [statistics.median(each) for each in passes]
    return replace(found, low=min(found.low, *medians), high=max(found.high, *medians))


def ratio(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> Figure | None:
    """By how much values differ that were measured side by side, round by round: 1.1 is 10 % more.

    What slows the machine down for a while slows both, and cancels out. They come in passes, as of
    `figure_of`. None where there is nothing to divide by.
    """
    passes = [
        [b / a for a, b in zip(*each, strict=True) if a > 0] for each in zip(before, after, strict=True)
    ]
    return figure_of(passes) if all(passes) else None
