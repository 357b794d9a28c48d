"""What is known of a matrix while it runs: told by many threads, read by the one that shows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from testbed.guest.state import GuestReport, GuestState
from testbed.matrix.cell import Cell
from testbed.matrix.merge import merge
from testbed.matrix.model import CellResult
from testbed.matrix.rows import Tally, tally
from testbed.report.results import Result

INTERRUPTED = "interrupted"


@dataclass
class _Entry:
    cell: Cell
    begun: float | None = None
    told: list[Result] = field(default_factory=list)
    ended: CellResult | None = None

    @property
    def results(self) -> Sequence[Result]:
        return self.told if self.ended is None else self.ended.results


@dataclass(frozen=True)
class Line:
    """A kernel as it stands: ``phase`` is waiting, booting, running or how its guest ended."""

    label: str
    phase: str
    tally: Tally
    seconds: float
    ended: CellResult | None
    """The column, when all its shares are there."""


class Board:
    """Thread-safe. ``scenarios`` is how many each kernel is to run; 0 when that is not known."""

    def __init__(self, cells: Sequence[Cell], scenarios: int = 0) -> None:
        self.scenarios = scenarios
        self._lock = threading.Lock()
        self._entries = {cell: _Entry(cell) for cell in cells}

    def begun(self, cell: Cell) -> None:
        """A guest is about to be started for it."""
        with self._lock:
            self._entries[cell].begun = time.monotonic()

    def told(self, cell: Cell, result: Result) -> None:
        """A verdict fell."""
        with self._lock:
            self._entries[cell].told.append(result)

    def ended(self, cell: Cell, result: CellResult) -> CellResult | None:
        """Returns the whole column when that was the last of its shares."""
        with self._lock:
            self._entries[cell].ended = result
            return _column(self._of(cell.label))

    def lines(self) -> list[Line]:
        """All kernels, in their order."""
        with self._lock:
            return [self._line(label) for label in self._labels()]

    def columns(self) -> tuple[list[CellResult], list[str]]:
        """The columns as far as they came, and the labels of those that never began."""
        columns, waiting = [], []
        with self._lock:
            for label in self._labels():
                entries = [each for each in self._of(label) if each.begun is not None or each.ended]
                if entries:
                    missing = len(entries) < len(self._of(label))
                    columns.append(merge([_as_far(entry, missing) for entry in entries]))
                else:
                    waiting.append(label)
        return columns, waiting

    def _labels(self) -> list[str]:
        return list(dict.fromkeys(cell.label for cell in self._entries))

    def _of(self, label: str) -> list[_Entry]:
        return [entry for cell, entry in self._entries.items() if cell.label == label]

    def _line(self, label: str) -> Line:
        entries = self._of(label)
        counts = tally([result for entry in entries for result in entry.results])
        column = _column(entries)
        if column is not None:
            return Line(label, column.guest.state.value, counts, column.guest.seconds, column)
        begun = [entry.begun for entry in entries if entry.begun is not None]
        if not begun:
            return Line(label, "waiting", counts, 0.0, None)
        running = any(entry.results for entry in entries)
        return Line(label, "running" if running else "booting", counts, time.monotonic() - min(begun), None)


def _column(entries: Sequence[_Entry]) -> CellResult | None:
    ended = [entry.ended for entry in entries if entry.ended is not None]
    return merge(ended) if len(ended) == len(entries) else None


def _as_far(entry: _Entry, missing: bool) -> CellResult:
    """A cell that had not ended, or whose column has other shares that had not begun, is not whole."""
    if entry.ended is not None and not missing:
        return entry.ended
    seconds = 0.0 if entry.begun is None else time.monotonic() - entry.begun
    if entry.ended is not None:
        seconds = entry.ended.guest.seconds
    report = GuestReport(GuestState.LOST, seconds=seconds, why=INTERRUPTED)
    return CellResult(entry.cell.label, report, tuple(entry.results))
