"""The matrix as a terminal shows it: scenarios down, kernels across."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from testbed.guest.state import GuestState
from testbed.matrix.model import CellResult
from testbed.matrix.rows import Marks, Row, Section, Verdict, make_rows, sections, state_words, tally

_STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.SKIP: "yellow",
    Verdict.ERROR: "bold red",
}
CHANGED = "◂"
_TITLE_WIDTH = 34  # columns of the terminal that titles need
_NARROWEST = 6
_UNBROKEN = 8  # states up to so many letters stay on one line
_GAP = 2


def matrix_tables(columns: Sequence[CellResult], width: int, *, full: bool) -> Iterator[Table]:
    """One table; where a terminal of ``width`` has no place for all kernels beside titles, several."""
    under = sections(make_rows(columns), full=full)
    widths = [_width(columns, under, index) for index in range(len(columns))]
    first = 0
    while first < len(columns):
        last, left = first + 1, width - _TITLE_WIDTH - widths[first] - _GAP
        while last < len(columns) and left >= widths[last] + _GAP:
            left -= widths[last] + _GAP
            last += 1
        yield _table(columns, under, range(first, last), widths)
        first = last


def _width(columns: Sequence[CellResult], under: Sequence[Section], index: int) -> int:
    """What a column needs: states, of several words, may be broken into lines, marks not."""
    column = columns[index]
    marks = [
        len(str(row.marks[index])) + len(f" {CHANGED}") * (row.change == index)
        for section in under
        for row in section.shown
        if row.marks[index] is not None
    ]
    states = [state_words(column), column.guest.state.value]
    words = [word for state in states for word in ([state] if len(state) <= _UNBROKEN else state.split())]
    return max(_NARROWEST, len(column.label), *marks, *map(len, words))


def _table(
    columns: Sequence[CellResult], under: Sequence[Section], chosen: range, widths: Sequence[int]
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("scenario", ratio=1, overflow="fold")
    for index in chosen:
        table.add_column(columns[index].label, justify="center", width=widths[index])
    for section in under:
        table.add_row(Text(section.heading, style="bold cyan"))
        for row in section.shown:
            table.add_row(row_name(row), *_marks(columns, row.marks, chosen, row.change))
        for marks, folded in section.folded:
            name = Text(f"  … {_more(len(folded), bool(section.shown))}", style="dim")
            table.add_row(name, *_marks(columns, marks, chosen, None))
    for word, cells in _footer([columns[index] for index in chosen]):
        table.add_row(Text(word, style="dim"), *cells)
    return table


def _more(count: int, beside: bool) -> str:
    return f"{count} {'more ' if beside else ''}row{'s' if count > 1 else ''}"


def row_name(row: Row) -> Text:
    """Title, variant and, where they differ, families."""
    name = Text(f"  {row.title}")
    if row.variant:
        name.append(f" ({row.variant})", style="dim")
    if row.families:
        name.append(f" {', '.join(row.families)}", style="cyan")
    return name


def _marks(
    columns: Sequence[CellResult], marks: Marks, chosen: Sequence[int], change: int | None
) -> Iterator[Text]:
    for index in chosen:
        mark = marks[index]
        if mark is None:
            words = state_words(columns[index])
            yield Text(words, style="dim" if words == "–" else "magenta")
            continue
        text = Text(str(mark), style=_STYLES[mark.verdict])
        if index == change:
            text.append(f" {CHANGED}", style="bold yellow")
        yield text


def _footer(columns: Sequence[CellResult]) -> Iterator[tuple[str, list[Text]]]:
    tallies = [tally(column.results) for column in columns]
    counts = {
        "passed": ([each.passed for each in tallies], "green"),
        "failed": ([each.failed + each.errors for each in tallies], "bold red"),
        "skipped": ([each.skipped for each in tallies], "yellow"),
    }
    for word, (numbers, style) in counts.items():
        if any(numbers) or word == "passed":
            yield word, [Text(str(number), style=style if number else "dim") for number in numbers]
    if any(column.guest.state is not GuestState.BOOTED for column in columns):
        yield "guest", [_state(column) for column in columns]
    yield "seconds", [Text(f"{column.guest.seconds:.1f}", style="dim") for column in columns]


def _state(column: CellResult) -> Text:
    booted = column.guest.state is GuestState.BOOTED
    return Text(column.guest.state.value, style="dim" if booted else "bold magenta")


def column_line(column: CellResult) -> Text:
    """One kernel in one line, for those who watch a log: ``6.12  booted  503 passed, 1 failed  34.2 s``."""
    state = column.guest.state
    style = "green" if column.passed else "red" if state is GuestState.BOOTED else "magenta"
    words = str(tally(column.results))
    why = column.guest.why or column.error
    if why and not column.passed:
        words += f": {why.splitlines()[0]}"
    return Text.assemble(
        (f"{column.label:<8}", "bold"), (f"{state.value}", style), f"  {words}  {column.guest.seconds:.1f} s"
    )
