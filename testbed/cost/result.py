"""What a cost run found, and which of it are regressions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from testbed.cost.contender import Contender
from testbed.cost.counters import Runs
from testbed.cost.noise import Figure, figure_of, ratio
from testbed.errors import UsageError
from testbed.lab.family import Family

LEAST_NS = 20.0  # of a run: a clock's own grain, and where in memory a program happens to lie
NONE = Runs(0, 0)
LEAST_RUNS = 8  # a round, of what is compared
_NOISY = 0.001
WITHOUT = ""
"""The letter of what is measured without any set."""


@dataclass(frozen=True)
class Request:
    """What was asked for: connections of each set in a round, rounds of each kind.

    The rounds are shared among passes, for each of which everything is loaded anew.
    """

    connections: int = 64
    rounds: int = 64
    passes: int = 8
    family: Family = Family.V4
    threshold: float = 0.1
    """By how much something has to be worse to be a regression: 0.1 is 10 %."""
    seed: int = 1
    """Of the order within each round."""

    def __post_init__(self) -> None:
        if self.passes > self.rounds:
            why = "each pass has a round at least"
            what = f"share {self.rounds} rounds among {self.passes} passes"
            raise UsageError(what, why, f"take `--rounds {self.passes}` or more, or fewer passes")

    def rounds_of_passes(self) -> list[int]:
        """How many rounds each pass has: alike, but for one."""
        whole, rest = divmod(self.rounds, self.passes)
        return [whole + (number < rest) for number in range(self.passes)]


@dataclass(frozen=True)
class Counted:
    """What was counted in one round of one set: by program (its key), and by callback (its number)."""

    programs: Mapping[str, Runs]
    callbacks: Mapping[int, Runs]
    lost: int = 0


@dataclass
class Samples:
    """A list for each pass, in it one value a round. ``rates`` are connections a second."""

    rates: list[list[float]] = field(default_factory=list)
    counted: list[list[Counted]] = field(default_factory=list)

    @property
    def all_counted(self) -> list[Counted]:
        return [one for each in self.counted for one in each]


@dataclass(frozen=True)
class Scale:
    """What measuring itself takes, in nanoseconds a run: of a program that does nothing.

    ``kernel`` is in every figure of the kernel's statistics. ``marks`` is what lies between the marks.
    """

    kernel: float
    marks: float

    @property
    def gap(self) -> float:
        """What the marks measure of each callback that the kernel's statistics do not."""
        return self.marks - self.kernel


class Kind(Enum):
    """What is compared. The value: what it is called, and its unit."""

    RATE = ("connections", "connections/s")
    BPF = ("BPF time", "ns a connection")
    PROGRAM = ("program", "ns a run")
    CALLBACK = ("callback", "ns a run")
    VERIFIED = ("verified instructions", "verified instructions")
    CODE = ("machine code", "bytes of machine code")

    @property
    def unit(self) -> str:
        return self.value[1]


@dataclass(frozen=True)
class Row:
    """One thing that was measured of each set, by letter. What a set does not have is not there.

    ``values`` are lists of passes, in these one a round; ``runs`` are those of a connection.
    """

    kind: Kind
    name: str
    values: Mapping[str, Sequence[Sequence[float]]]
    runs: Mapping[str, float] = field(default_factory=dict)
    is_compared: bool = True
    """Not what ran fewer than `LEAST_RUNS` times a round, of some set: that tells nothing."""

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """Of all rounds, by letter."""
        return {letter: figure_of(passes) for letter, passes in self.values.items()}

    def ratio(self, before: str, after: str) -> Figure | None:
        """Round by round; None where one of the two does not have it, or it is not compared."""
        if not self.is_compared or before not in self.values or after not in self.values:
            return None
        return ratio(self.values[before], self.values[after])


@dataclass(frozen=True)
class Comparison:
    """One row of two sets."""

    row: Row
    before: str
    after: str
    ratio: Figure
    is_worse: bool
    is_better: bool

    @property
    def size(self) -> float:
        """0.38 is 38 % more."""
        return self.ratio.median - 1

    def __str__(self) -> str:
        a, b = (self.row.figures[letter].median for letter in (self.before, self.after))
        low, high = (100 * (each - 1) for each in (self.ratio.low, self.ratio.high))
        noise = "exact" if self.ratio.count == 1 else f"surely {low:+,.0f} … {high:+,.0f} %"
        unit = "" if self.row.kind is Kind.RATE else f" {self.row.kind.unit}"
        return f"{self.row.name}: {100 * self.size:+,.0f} %{unit} ({a:,.0f} → {b:,.0f}; {noise})"


def compared(row: Row, before: str, after: str, threshold: float) -> Comparison | None:
    """Worse, or better, is what is so beyond the noise and by more than the threshold.

    Times a run must differ by `LEAST_NS` as well. The size of machine code is no cost by itself.
    """
    found = row.ratio(before, after)
    if found is None:
        return None
    size = round(found.median - 1, 9)
    grows = found.low > 1 and size > threshold
    shrinks = found.high < 1 and size < -threshold
    if row.kind in {Kind.PROGRAM, Kind.CALLBACK}:
        change = abs(row.figures[after].median - row.figures[before].median)
        grows, shrinks = (each and change >= LEAST_NS for each in (grows, shrinks))
    worse, better = (shrinks, grows) if row.kind is Kind.RATE else (grows, shrinks)
    counts = row.kind is not Kind.CODE
    return Comparison(row, before, after, found, worse and counts, better and counts)


@dataclass(frozen=True)
class Result:
    """All of it.

    ``scale`` is None where the kernel does not time programs; ``sums`` say by letter what part of the
    sockops programs' time the callbacks add up to. ``notes`` are what is to be known besides.
    """

    request: Request
    contenders: tuple[Contender, ...]
    rows: tuple[Row, ...]
    scale: Scale | None
    sums: Mapping[str, float]
    seconds: float
    notes: tuple[str, ...] = ()

    def comparisons(self) -> Iterator[Comparison]:
        """Every row, of every later set against the first one."""
        first, *later = [each.letter for each in self.contenders]
        for after in later:
            for row in self.rows:
                found = compared(row, first, after, self.request.threshold)
                if found is not None:
                    yield found

    def regressions(self) -> list[Comparison]:
        return [each for each in self.comparisons() if each.is_worse]


def rows_of_rates(samples: Mapping[str, Samples]) -> Iterator[Row]:
    """Connections a second, also without any program; and of each set in percent of those."""
    rates = {letter: each.rates for letter, each in samples.items()}
    yield Row(Kind.RATE, Kind.RATE.unit, rates)
    without = rates[WITHOUT]
    shares = {
        letter: [
            [100 * with_it / one for with_it, one in zip(*each, strict=True)]
            for each in zip(passes, without, strict=True)
        ]
        for letter, passes in rates.items()
        if letter != WITHOUT
    }
    yield Row(Kind.RATE, "% of those without", shares, is_compared=False)


def rows_of_times(
    counted: Mapping[str, Sequence[Sequence[Counted]]],
    names: Mapping[str, str],
    ops: Mapping[int, str],
    connections: int,
    scale: Scale,
) -> Iterator[Row]:
    """Times: of all programs a connection; of each program, and of each callback, a run.

    ``counted`` is by letter and pass, ``names`` are those of programs by key, ``ops`` those of callbacks.
    """
    totals = {
        letter: [
            [sum(runs.ns for runs in one.programs.values()) / connections for one in each] for each in of
        ]
        for letter, of in counted.items()
    }
    yield Row(Kind.BPF, "all programs", totals)
    for key, name in names.items():
        of_program = {
            letter: [[one.programs.get(key, NONE) for one in each] for each in of]
            for letter, of in counted.items()
        }
        yield from _row(Kind.PROGRAM, name, of_program, connections, 0.0)
    for op, name in sorted(ops.items()):
        of_op = {
            letter: [[one.callbacks.get(op, NONE) for one in each] for each in of]
            for letter, of in counted.items()
        }
        yield from _row(Kind.CALLBACK, name, of_op, connections, scale.gap)


def _row(
    kind: Kind, name: str, runs: Mapping[str, Sequence[Sequence[Runs]]], connections: int, gap: float
) -> Iterator[Row]:
    """Of those sets in which it ran in every round."""
    there = {letter: of for letter, of in runs.items() if all(one.times for each in of for one in each)}
    if not there:
        return
    values = {
        letter: [[max(one.ns / one.times - gap, 0.0) for one in each] for each in of]
        for letter, of in there.items()
    }
    counts = {
        letter: sum(one.times for each in of for one in each) / sum(len(each) * connections for each in of)
        for letter, of in there.items()
    }
    yield Row(kind, name, values, counts, min(counts.values()) * connections >= LEAST_RUNS)


def row_of_sizes(kind: Kind, name: str, sizes: Mapping[str, int]) -> Row:
    """A figure without noise."""
    return Row(kind, name, {letter: [[float(size)]] for letter, size in sizes.items() if size})


def sum_of_callbacks(counted: Sequence[Counted], sockops: Sequence[str], scale: Scale) -> float:
    """What part of the kernel's time of the sockops programs the callbacks add up to. 0 without any."""
    told = sum(runs.ns - scale.gap * runs.times for each in counted for runs in each.callbacks.values())
    kernel = sum(each.programs[key].ns for each in counted for key in sockops if key in each.programs)
    return told / kernel if kernel else 0.0


def untold(letter: str, counted: Sequence[Counted], sockops: Sequence[str]) -> Iterator[str]:
    """Words where the marks have not seen what the kernel has counted."""
    runs = sum(each.programs[key].times for each in counted for key in sockops if key in each.programs)
    told = sum(each.times for of in counted for each in of.callbacks.values()) * len(sockops)
    if runs and abs(runs - told) / runs > _NOISY:
        yield f"{letter}: the kernel counts {runs:,} runs of its sockops programs, the marks {told:,}"
    if len(sockops) > 1:
        words = "the time of a callback has what the kernel does between them"
        yield f"{letter}: it has {len(sockops)} sockops programs: {words}"
    if lost := sum(each.lost for each in counted):
        yield f"{letter}: {lost:,} callbacks could not be timed: others came in between"
