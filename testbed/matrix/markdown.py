"""A matrix as the summary of a GitHub Actions step: Markdown, short enough to be read."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from testbed.guest.state import GuestState
from testbed.matrix.details import failures_by_kernels, on_kernels, skips_by_kernels, summary_line
from testbed.matrix.model import CellResult, MatrixResult
from testbed.matrix.outcome import exit_code
from testbed.matrix.rows import Row, make_rows, ran_nowhere, state_words, tally
from testbed.report.results import short_name
from testbed.report.shown import printable

_MOST_ROWS = 100
_MOST_FAILURES = 20
_MOST_CHARACTERS = 4000  # of one failure: GitHub takes 1 MiB of a step


def to_markdown(matrix: MatrixResult) -> str:
    """Kernels first, then the rows that are not the same everywhere, then why."""
    badge = "✅" if exit_code(matrix) == 0 else "❌"
    lines = [f"### {badge} {_escape(str(summary_line(matrix)))}", ""]
    lines += _kernels(matrix.cells)
    told = [row for row in make_rows(matrix.cells) if not row.quiet]
    if told:
        lines += ["", *_rows(matrix.cells, told[:_MOST_ROWS])]
        if len(told) > _MOST_ROWS:
            lines += ["", f"… {len(told) - _MOST_ROWS} more rows"]
    lines += _failures(matrix.cells)
    lines += _guests(matrix.cells)
    for reason, count, labels in skips_by_kernels(matrix.cells):
        lines += ["", f"{count} skipped on {_escape(on_kernels(labels, matrix.cells))}: {_escape(reason)}"]
    nowhere = ran_nowhere(matrix.cells)
    if nowhere:
        words = "scenario" if len(nowhere) == 1 else "scenarios"
        lines += ["", f"**{len(nowhere)} {words} ran on no kernel of this matrix**"]
    notes = [matrix.origin, *matrix.notes]
    return "\n".join([*lines, "", *(f"<sub>{_escape(note)}</sub>  " for note in notes if note), "", ""])


def _escape(text: str) -> str:
    for character in "\\`*_{}[]<>|#~":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---", *(":---:" for _ in head[1:])], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _kernels(columns: Sequence[CellResult]) -> list[str]:
    rows = []
    for column in columns:
        counts = tally(column.results)
        numbers = [counts.passed, counts.failed + counts.errors, counts.skipped]
        good = column.guest.state is GuestState.BOOTED and not column.error
        shown = "booted" if good else f"**{state_words(column)}**"
        rows.append(
            [_escape(column.label), shown, *(str(each) for each in numbers), f"{column.guest.seconds:.1f}"]
        )
    return _table(["kernel", "guest", "passed", "failed", "skipped", "seconds"], rows)


def _rows(columns: Sequence[CellResult], rows: Sequence[Row]) -> list[str]:
    shown = []
    for row in rows:
        name = " ".join(
            part for part in (row.title, row.variant and f"({row.variant})", ", ".join(row.families)) if part
        )
        cells = [_escape(name)]
        for index, mark in enumerate(row.marks):
            if mark is None:
                cells.append(state_words(columns[index]))
                continue
            words = f"**{mark}**" if mark.verdict.bad else str(mark)
            cells.append(f"{words} ◂" if index == row.change else words)
        shown.append(cells)
    return _table(["scenario", *(_escape(column.label) for column in columns)], shown)


def _html(text: str) -> str:
    return html.escape(printable(text), quote=False)


def _folded(title: str, text: str) -> Iterator[str]:
    """A block that opens by a click, as HTML: of Markdown, nothing is read between <pre> and </pre>."""
    cut = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\n…"
    yield from ("", f"<details><summary>{_html(title)}</summary>", "")
    yield from ("<pre>", _html(cut.strip()), "</pre>", "", "</details>")


def _failures(columns: Sequence[CellResult]) -> list[str]:
    lines: list[str] = []
    left = _MOST_FAILURES
    for labels, results in failures_by_kernels(columns):
        for result in results[:left]:
            name = f"{short_name(result.nodeid)} on {on_kernels(labels, columns)}"
            lines += _folded(name, result.details)
        if len(results) > left:
            lines += ["", f"… {len(results) - left} more on {_escape(on_kernels(labels, columns))}"]
        left = max(0, left - len(results))
    return lines


def _guests(columns: Sequence[CellResult]) -> list[str]:
    lines: list[str] = []
    for column in columns:
        if column.guest.state is not GuestState.BOOTED or column.error:
            why = column.guest.why or column.error
            title = " ".join(f"{column.label}: {state_words(column)}: {why}".split())
            lines += _folded(title, column.guest.console) if column.guest.console else ["", _escape(title)]
    return lines
