"""What a person sees while a matrix runs: a line for each kernel on a terminal, or one when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from testbed.matrix.board import Board, Line
from testbed.matrix.model import CellResult
from testbed.matrix.run import OnColumn
from testbed.matrix.table import column_line

_PER_SECOND = 4
_PHASES = {"waiting": "dim", "booting": "cyan", "running": "blue", "booted": "green"}


@contextmanager
def showing(board: Board, console: Console) -> Iterator[OnColumn]:
    """While the block runs. What it yields is to be told each kernel that is done."""
    if not console.is_terminal:
        yield lambda column: console.print(column_line(column), soft_wrap=True)
        return
    with Live(
        console=console,
        refresh_per_second=_PER_SECOND,
        get_renderable=lambda: board_table(board),
        transient=True,
    ):
        yield _nothing


def _nothing(column: CellResult) -> None:
    """The live table shows it already."""


def board_table(board: Board) -> Table:
    """The kernels as they stand."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("kernel", "guest", "passed", "failed", "skipped", "seconds"):
        table.add_column(name, justify="left" if name in {"kernel", "guest"} else "right", no_wrap=True)
    for line in board.lines():
        table.add_row(*_row(line, board.scenarios))
    return table


def _row(line: Line, scenarios: int) -> Iterator[Text]:
    counts = line.tally
    bad = counts.failed + counts.errors
    phase = line.phase
    if phase == "running" and scenarios:
        phase += f" {100 * (counts.passed + bad + counts.skipped) // scenarios} %"
    yield Text(line.label, style="bold")
    yield Text(phase, style=_PHASES.get(line.phase, "magenta"))
    yield Text(str(counts.passed), style="green" if counts.passed else "dim")
    yield Text(str(bad), style="bold red" if bad else "dim")
    yield Text(str(counts.skipped), style="yellow" if counts.skipped else "dim")
    yield Text(f"{line.seconds:.1f}" if line.phase != "waiting" else "", style="dim")
