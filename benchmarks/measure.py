"""Rows of a table, and how they are filled: all contenders of a section in turn, in an order drawn anew."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from testbed.errors import MachineError

ROOT = Path(__file__).resolve().parent.parent
Taken = Mapping[str, Sequence[float]]
"""What one call has measured, by the key of the row that it is for."""


@dataclass(frozen=True)
class Target:
    """What a row's ratio to its reference, or its median, is to be."""

    of: Literal["ratio", "median"]
    at_most: float | None = None
    at_least: float | None = None

    def is_met(self, value: float) -> bool:
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )

    def words(self, unit: str) -> str:
        sign, bound = ("≤", self.at_most) if self.at_least is None else ("≥", self.at_least)
        return f"{sign} {bound:g}{'×' if self.of == 'ratio' else f' {unit}'}"


@dataclass(frozen=True)
class Row:
    """A thing that is measured: ``what`` in words, its unit, and the key of the row it is divided by.

    ``short`` is what it is called where others are divided by it.
    """

    key: str
    what: str
    unit: str
    reference: str = ""
    target: Target | None = None
    short: str = ""


@dataclass(frozen=True)
class Contender:
    """Measures for one row or more; ``every`` so many rounds, where it takes as long as a hundred others.

    ``may_fail``: it is others' software. A failure is told, and it takes part again in the next round.
    """

    name: str
    run: Callable[[], Taken]
    every: int = 1
    may_fail: bool = False


@dataclass(frozen=True)
class Options:
    """What was asked for. ``rounds`` is instead of each section's own number."""

    quick: bool = False
    rounds: int | None = None
    seed: int = 0
    munet: str = ""


@dataclass(frozen=True)
class Prepared:
    """Who takes part in a section, why rows stay empty, and what is to be said when all is measured."""

    contenders: Sequence[Contender]
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: Callable[[], Sequence[str]] = tuple


@dataclass(frozen=True)
class Limit:
    """At most so many rounds; none is begun after so many seconds, but ``least`` there are.

    As many ``warm_up`` rounds as that are thrown away before.
    """

    rounds: int
    seconds: float
    warm_up: int = 2
    least: int = 3


@dataclass(frozen=True)
class Section:
    """A part of the table; ``prepare`` makes its contenders, and its stack undoes what they stand on."""

    name: str
    title: str
    rows: Sequence[Row]
    prepare: Callable[[Options, ExitStack], Prepared]
    quick: Limit
    whole: Limit


@dataclass(frozen=True)
class Figures:
    """The samples of a row, in order of measuring, and what they come to."""

    samples: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return first, third

    @property
    def noise(self) -> float:
        """How far the middle half of the samples reaches, as a part of the median."""
        first, third = self.quartiles
        return (third - first) / self.median if self.median else 0.0


@dataclass(frozen=True)
class Measured:
    """A section's figures by row, why rows have none, how many rounds there were, and how long it took."""

    section: Section
    figures: Mapping[str, Figures]
    missing: Mapping[str, str]
    notes: Sequence[str]
    rounds: int
    seconds: float

    def ratio(self, row: Row) -> float | None:
        """A row's median by its reference's; None where there is no such thing."""
        ours, theirs = self.figures.get(row.key), self.figures.get(row.reference)
        return ours.median / theirs.median if ours and theirs and theirs.median else None

    def met(self, row: Row) -> bool | None:
        """Whether a row is as it is to be; None where it is not said, or not known."""
        if row.target is None or row.key not in self.figures:
            return None
        value = self.ratio(row) if row.target.of == "ratio" else self.figures[row.key].median
        return None if value is None else row.target.is_met(value)


@contextmanager
def clocked(times: list[float], scale: float = 1e3) -> Iterator[None]:
    """Adds how long its block took, in milliseconds unless scaled otherwise."""
    start = time.perf_counter()
    yield
    times.append(scale * (time.perf_counter() - start))


def measure(section: Section, options: Options) -> Measured:
    """Measures a section: whole rounds, each with every contender that is due, in a shuffled order."""
    limit = section.quick if options.quick else section.whole
    rounds = limit.rounds if options.rounds is None else options.rounds
    warm_up = min(limit.warm_up, rounds - 1)
    chance = random.Random(f"{options.seed} {section.name}")  # noqa: S311 (an order, no secret)
    samples: dict[str, list[float]] = {}
    failures: dict[str, list[str]] = {}
    with ExitStack() as stack:
        prepared = section.prepare(options, stack)
        start = time.monotonic()
        done = 0
        for number in range(-warm_up, rounds):
            if done >= limit.least and time.monotonic() - start > limit.seconds:
                break
            taken = _round(prepared.contenders, number, chance, failures)
            if number >= 0:
                done += 1
                for key, values in taken:
                    samples.setdefault(key, []).extend(values)
        seconds = time.monotonic() - start
        notes = [*_told(failures), *prepared.notes()]
    if unknown := samples.keys() - {row.key for row in section.rows}:
        raise AssertionError(f"{section.name}: no row for {unknown}")
    figures = {key: Figures(tuple(values)) for key, values in samples.items() if values}
    return Measured(section, figures, prepared.missing, notes, done, seconds)


def _told(failures: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{name} failed {len(each)} ×, the last time: {each[-1]}" for name, each in failures.items()]


def _round(
    contenders: Sequence[Contender], number: int, chance: random.Random, failures: dict[str, list[str]]
) -> list[tuple[str, Sequence[float]]]:
    """What is rare is warmed up in the last warm-up round alone."""
    due = [each for each in contenders if number == -1 or number % each.every == 0]
    due = [each for each in due if number >= -1 or each.every == 1]
    chance.shuffle(due)
    taken: list[tuple[str, Sequence[float]]] = []
    for each in due:
        try:
            taken += each.run().items()
        except MachineError as error:
            if not each.may_fail:
                raise
            failures.setdefault(each.name, []).append(error.why)
    return taken
