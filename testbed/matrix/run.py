"""Cells run through an executor: threads of this process, each with a guest, or a cluster."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager

from testbed.errors import TestbedError
from testbed.guest.state import GuestReport, GuestState
from testbed.guest.stop import Stop, Stopped
from testbed.matrix.board import Board
from testbed.matrix.cell import Cell, OnResult
from testbed.matrix.model import CellResult
from testbed.report.results import Result

CellFunction = Callable[[Cell, OnResult | None], CellResult]
Submit = Callable[[Cell], Future[CellResult]]
OnColumn = Callable[[CellResult], None]


class Local:
    """Guests of this machine, ``jobs`` at a time: each is a process that a thread waits for."""

    def __init__(self, jobs: int, run: CellFunction, board: Board, stop: Stop) -> None:
        self._stop = stop
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="cell")
        self._run = run
        self._board = board

    def submit(self, cell: Cell) -> Future[CellResult]:
        """Begins it when a job is free."""
        return self._pool.submit(self._watched, cell)

    def stop(self) -> None:
        """Begins no other cell; one that runs ends, whatever its guest is at."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _watched(self, cell: Cell) -> CellResult:
        def on_result(result: Result) -> None:
            if self._stop.is_set:
                raise Stopped
            self._board.told(cell, result)

        if self._stop.is_set:
            raise Stopped
        self._board.begun(cell)
        return self._run(cell, on_result)


@contextmanager
def on_this_machine(jobs: int, run: CellFunction, board: Board, stop: Stop) -> Iterator[Local]:
    """Stopped when the block is left, by Ctrl-C as well; ``stop`` is what cells and their guests heed."""
    local = Local(jobs, run, board, stop)
    try:
        yield local
    finally:
        local.stop()


def run_cells(cells: Sequence[Cell], submit: Submit, board: Board, on_column: OnColumn) -> None:
    """Runs them all, in whatever order they end; ``on_column`` is told each kernel that is done."""
    work = {submit(cell): cell for cell in cells}
    for future in as_completed(work):
        cell = work[future]
        column = board.ended(cell, _result(cell, future))
        if column is not None:
            on_column(column)


def _result(cell: Cell, future: Future[CellResult]) -> CellResult:
    """What came of it. A cell that could not be run at all is a column that says so: others go on."""
    try:
        return future.result()
    except TestbedError as error:
        return _without_guest(cell, GuestState.NO_BOOT, f"cannot {error}")
    except CancelledError:
        return _without_guest(cell, GuestState.LOST, "the cluster gave it up: its scheduler is gone")
    except Exception as error:  # noqa: BLE001 (whatever it is, it is one kernel's)
        if type(error).__name__ == "KilledWorker":  # of distributed, which need not be installed
            return _without_guest(cell, GuestState.LOST, "each worker that ran it was lost")
        trace = "".join(traceback.format_exception(error))
        why = f"a fault in the testbed itself: {type(error).__name__}: {error}"
        return _without_guest(cell, GuestState.LOST, why, trace)


def _without_guest(cell: Cell, state: GuestState, words: str, console: str = "") -> CellResult:
    why, _, rest = words.partition("\n")
    return CellResult(cell.label, GuestReport(state, why=why, console=console or rest))
