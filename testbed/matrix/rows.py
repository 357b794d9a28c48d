"""The rows of a matrix: what they show of each kernel, which are equal, where they change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from testbed.guest.state import GuestState
from testbed.matrix.model import CellResult
from testbed.report.results import Result


class Verdict(StrEnum):
    """Of one scenario, or of several that share a row."""

    PASS = "pass"  # noqa: S105 (no password)
    FAIL = "fail"
    SKIP = "skip"
    ERROR = "error"

    @property
    def bad(self) -> bool:
        return self in {Verdict.FAIL, Verdict.ERROR}

    @property
    def shown(self) -> str:
        """What is wrong is written in capitals."""
        return self.upper() if self.bad else self.value


VERDICTS = {
    "passed": Verdict.PASS,
    "failed": Verdict.FAIL,
    "skipped": Verdict.SKIP,
    "error": Verdict.ERROR,
}
_WORST_FIRST = (Verdict.ERROR, Verdict.FAIL, Verdict.PASS, Verdict.SKIP)


@dataclass(frozen=True)
class Mark:
    """A row in one column: its worst verdict, which ``count`` of its ``total`` scenarios have.

    ``count`` and ``total`` are 0 where all have it, so that rows of different sizes compare equal.
    ``whole`` is False where some were not run, as its guest ended before: that tells nothing of the kernel.
    """

    verdict: Verdict
    count: int = 0
    total: int = 0
    whole: bool = True

    def __str__(self) -> str:
        return f"{self.count} {self.verdict.shown}" if self.total else self.verdict.shown


Marks = tuple[Mark | None, ...]
"""One a column; None where the row was not run."""


@dataclass(frozen=True)
class Row:
    """Scenarios that share a title and a variant, in ``families`` of the same marks.

    ``families`` is empty where that is all of them. ``results`` are the verdicts behind each mark.
    """

    heading: str
    title: str
    variant: str
    families: tuple[str, ...]
    marks: Marks
    results: tuple[tuple[Result, ...], ...]

    @property
    def change(self) -> int | None:
        """The first column whose mark is another than that before it, of those that were run."""
        before: Mark | None = None
        for column, mark in enumerate(self.marks):
            if mark is None or not mark.whole:
                continue
            if before is not None and mark != before:
                return column
            before = mark
        return None

    @property
    def quiet(self) -> bool:
        """Whether it is the same everywhere, and nothing bad."""
        bad = any(mark.verdict.bad for mark in self.marks if mark is not None)
        return not bad and self.change is None

    @property
    def scenarios(self) -> int:
        return len({result.nodeid for column in self.results for result in column})


@dataclass(frozen=True)
class Section:
    """The rows under one heading, ``shown`` and, by their equal marks, ``folded``."""

    heading: str
    shown: tuple[Row, ...]
    folded: tuple[tuple[Marks, tuple[Row, ...]], ...]


def mark(results: Sequence[Result], expected: int) -> Mark | None:
    """What several scenarios show together, of as many as were ``expected``."""
    if not results:
        return None
    counts = Counter(VERDICTS[result.outcome] for result in results)
    worst = next(verdict for verdict in _WORST_FIRST if counts[verdict])
    if counts[worst] == expected:
        return Mark(worst)
    return Mark(worst, counts[worst], expected, len(results) == expected)


def make_rows(columns: Sequence[CellResult]) -> list[Row]:
    """In the order of the scenarios' files. Families with the same verdicts everywhere are one row."""
    cells: dict[tuple[str, str, str], dict[str, list[list[Result]]]] = {}
    for index, result in _everything(columns):
        about = result.about
        key = (about.heading, about.row or about.title, about.variant)
        by_family = cells.setdefault(key, {})
        by_family.setdefault(about.family, [[] for _ in columns])[index].append(result)
    rows = []
    for key, by_family in cells.items():
        alike: dict[Shapes, list[str]] = {}
        for family, results in by_family.items():
            alike.setdefault(_shapes(_marks(results)), []).append(family)
        for families in alike.values():
            behind = [
                [result for family in families for result in by_family[family][index]]
                for index in range(len(columns))
            ]
            shown = () if len(alike) == 1 else tuple(sorted(families))
            rows.append(Row(*key, shown, _marks(behind), tuple(map(tuple, behind))))
    return rows


def _marks(results: Sequence[Sequence[Result]]) -> Marks:
    """Of what each column has; how many that should be is what all of them together have."""
    expected = len({result.nodeid for column in results for result in column})
    return tuple(mark(column, expected) for column in results)


Shapes = tuple[tuple[Verdict, bool, bool] | None, ...]


def _shapes(marks: Marks) -> Shapes:
    """Marks without their counts: families that differ in those alone share a row, and are counted in one."""
    return tuple(None if each is None else (each.verdict, each.total > 0, each.whole) for each in marks)


def _everything(columns: Sequence[CellResult]) -> list[tuple[int, Result]]:
    """All results as they stand in the files, whichever kernel has them."""
    found = [(index, result) for index, column in enumerate(columns) for result in column.results]
    return sorted(found, key=lambda each: (each[1].place, each[1].nodeid, each[0]))


def sections(rows: Sequence[Row], *, full: bool) -> list[Section]:
    """Rows by heading. Quiet ones are folded, unless ``full``, where two or more have the same marks."""
    headings: dict[str, list[Row]] = {}
    for row in rows:
        headings.setdefault(row.heading, []).append(row)
    made = []
    for heading, under in headings.items():
        alike: dict[Marks, list[Row]] = {}
        for row in under:
            if row.quiet and not full:
                alike.setdefault(row.marks, []).append(row)
        folded = {marks: tuple(each) for marks, each in alike.items() if len(each) > 1}
        away = {id(row) for each in folded.values() for row in each}
        shown = tuple(row for row in under if id(row) not in away)
        made.append(Section(heading, shown, tuple(folded.items())))
    return made


def state_words(column: CellResult) -> str:
    """What stands where a column has no verdict: how its guest ended, never a FAIL."""
    if column.guest.state is not GuestState.BOOTED:
        return column.guest.state.value
    return "not run" if column.error else "–"


def ran_nowhere(columns: Sequence[CellResult]) -> list[Result]:
    """Scenarios that were skipped on each kernel that came to them: the first verdict of each."""
    ran = {result.nodeid for column in columns for result in column.results if result.outcome != "skipped"}
    first: dict[str, Result] = {}
    for _, result in _everything(columns):
        if result.nodeid not in ran:
            first.setdefault(result.nodeid, result)
    return list(first.values())


@dataclass(frozen=True)
class Tally:
    """How many scenarios of a column have which verdict."""

    passed: int
    failed: int
    errors: int
    skipped: int

    def __str__(self) -> str:
        words = {
            "passed": self.passed,
            "failed": self.failed,
            "error" if self.errors == 1 else "errors": self.errors,
            "skipped": self.skipped,
        }
        return ", ".join(f"{count} {word}" for word, count in words.items() if count) or "nothing ran"


def tally(results: Sequence[Result]) -> Tally:
    counts = Counter(result.outcome for result in results)
    return Tally(counts["passed"], counts["failed"], counts["error"], counts["skipped"])
