"""A matrix as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import testbed
from testbed.guest.state import GuestState
from testbed.matrix.details import failures_by_kernels, on_kernels, skips_by_kernels, summary_line
from testbed.matrix.model import CellResult, MatrixResult
from testbed.matrix.rows import (
    Row,
    Section,
    Tally,
    Verdict,
    make_rows,
    ran_nowhere,
    sections,
    state_words,
    tally,
)
from testbed.report.pages import templates
from testbed.report.results import Result, short_name


@dataclass(frozen=True)
class _Shown:
    """One square of the page: its words, its class of style, the failure or guest that it links to."""

    words: str
    kind: str
    link: str = ""
    changed: bool = False


@dataclass(frozen=True)
class _Failure:
    anchor: str
    name: str
    title: str
    where: str
    outcome: str
    violated: tuple[str, ...]
    details: str


def to_html(matrix: MatrixResult) -> str:
    """The page: every row, those that are the same on all kernels folded, and what is behind the table."""
    page = _Page(matrix.cells)
    columns = matrix.cells
    return (
        templates("testbed.matrix")
        .get_template("matrix.html.j2")
        .render(
            matrix=matrix,
            page=page,
            columns=columns,
            sections=sections(make_rows(columns), full=False),
            failures=page.failures,
            skips=[
                (reason, count, on_kernels(labels, columns))
                for reason, count, labels in skips_by_kernels(columns)
            ],
            troubled=[column for column in columns if page.troubled(column)],
            nowhere=[(short_name(result.nodeid), result.details) for result in ran_nowhere(columns)],
            total=tally([result for column in columns for result in column.results]),
            summary=str(summary_line(matrix)),
            version=testbed.__version__,
        )
    )


class _Page:
    """What the template asks for."""

    def __init__(self, columns: Sequence[CellResult]) -> None:
        self._columns = columns
        self._anchors: dict[tuple[str, str], str] = {}
        self.failures: list[_Failure] = self._collect()

    def _collect(self) -> list[_Failure]:
        failures: list[_Failure] = []
        for labels, results in failures_by_kernels(self._columns):
            for result in results:
                anchor = f"failure-{len(failures) + 1}"
                failures.append(self._failure(anchor, labels, result))
                for label in labels:
                    self._anchors[label, result.nodeid] = anchor
        return failures

    def _failure(self, anchor: str, labels: Sequence[str], result: Result) -> _Failure:
        return _Failure(
            anchor,
            short_name(result.nodeid),
            result.about.title,
            on_kernels(labels, self._columns),
            result.outcome,
            result.violated,
            result.details,
        )

    def troubled(self, column: CellResult) -> bool:
        return column.guest.state is not GuestState.BOOTED or bool(column.error)

    def anchor(self, column: CellResult) -> str:
        """Of a guest that is told about below the table."""
        return f"guest-{self._columns.index(column) + 1}"

    def tally(self, column: CellResult) -> Tally:
        return tally(column.results)

    def state(self, column: CellResult) -> str:
        return state_words(column) if self.troubled(column) else "booted"

    def cells(self, row: Row) -> list[_Shown]:
        """The squares of a row."""
        return [self._cell(row, index) for index in range(len(self._columns))]

    def _cell(self, row: Row, index: int) -> _Shown:
        column, mark = self._columns[index], row.marks[index]
        if mark is None:
            link = self.anchor(column) if self.troubled(column) else ""
            return _Shown(state_words(column), "state" if link else "none", link)
        link = next(
            (
                self._anchors[column.label, result.nodeid]
                for result in row.results[index]
                if (column.label, result.nodeid) in self._anchors
            ),
            "",
        )
        return _Shown(str(mark), mark.verdict.value, link, index == row.change)

    def heading(self, section: Section) -> list[_Shown]:
        """The squares of a heading: how many of its scenarios passed, or what is worst."""
        rows = [*section.shown, *(row for _, folded in section.folded for row in folded)]
        made = []
        for index, column in enumerate(self._columns):
            results = [result for row in rows for result in row.results[index]]
            counts = tally(results)
            bad = counts.failed + counts.errors
            if not results:
                made.append(_Shown(state_words(column), "state" if self.troubled(column) else "none"))
            elif bad:
                made.append(_Shown(f"{bad} of {len(results)}", Verdict.FAIL.value))
            elif counts.passed:
                made.append(_Shown(str(counts.passed), Verdict.PASS.value))
            else:
                made.append(_Shown(str(counts.skipped), Verdict.SKIP.value))
        return made
