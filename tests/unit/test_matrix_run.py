"""Cells on the threads of this machine: told as they go, and when something is amiss."""

from __future__ import annotations

import io
import select
import threading
from concurrent.futures import CancelledError, Future

import pytest
from rich.console import Console

from testbed.errors import MachineError
from testbed.guest.state import GuestState
from testbed.guest.stop import Stop, Stopped
from testbed.matrix.board import Board
from testbed.matrix.cell import Cell, OnResult
from testbed.matrix.live import board_table, showing
from testbed.matrix.model import CellResult
from testbed.matrix.plan import plan
from testbed.matrix.run import on_this_machine, run_cells
from tests.matrix_results import column

CELLS = plan([Cell(label, label) for label in ("5.10", "6.1", "7.2")], 2)  # 7.2 in two shares
WHOLE = {"5.10": "pppp", "6.1": "pfps", "7.2": "pppp"}


def share(cell: Cell, on_result: OnResult | None) -> CellResult:
    whole = column(cell.label, WHOLE[cell.label])
    results = whole.results[cell.share :: cell.shares]
    for result in results if on_result else ():
        assert on_result is not None
        on_result(result)
    return CellResult(cell.label, whole.guest, results)


def test_columns_in_their_order_whoever_is_first() -> None:
    board = Board(CELLS, 4)
    done: list[str] = []
    with Stop() as stop, on_this_machine(2, share, board, stop) as local:
        run_cells(CELLS, local.submit, board, lambda column: done.append(column.label))
    columns, waiting = board.columns()
    assert [(each.label, len(each.results)) for each in columns] == [("5.10", 4), ("6.1", 4), ("7.2", 4)]
    assert (sorted(done), waiting) == (["5.10", "6.1", "7.2"], [])


def test_a_cell_that_cannot_be_run_is_its_own_column() -> None:
    def run(cell: Cell, on_result: OnResult | None) -> CellResult:
        if cell.label == "5.10":
            raise MachineError("fetch linux 5.10", "no route to the archive\nat all")
        if cell.label == "6.1":
            raise KeyError("oops")
        return share(cell, on_result)

    board = Board(CELLS)
    with Stop() as stop, on_this_machine(1, run, board, stop) as local:
        run_cells(CELLS, local.submit, board, lambda _: None)
    old, middle, new = board.columns()[0]
    assert (old.guest.state, old.guest.why) == (
        GuestState.NO_BOOT,
        "cannot fetch linux 5.10: no route to the archive",
    )
    assert middle.guest.why == "a fault in the testbed itself: KeyError: 'oops'"
    assert "raise KeyError" in middle.guest.console
    assert new.passed


class KilledWorker(Exception):
    """As distributed's, which need not be installed."""


@pytest.mark.parametrize(
    ("error", "why"),
    [(KilledWorker(), "each worker that ran it was lost"), (CancelledError(), "scheduler is gone")],
)
def test_what_a_cluster_loses_is_lost(error: BaseException, why: str) -> None:
    future: Future[CellResult] = Future()
    future.set_exception(error)
    board = Board(CELLS[:1])
    run_cells(CELLS[:1], lambda _: future, board, lambda _: None)
    (lost,) = board.columns()[0]
    assert lost.guest.state is GuestState.LOST
    assert why in lost.guest.why


def test_interrupted_what_had_been_run_is_there() -> None:
    told = threading.Event()
    begun: list[str] = []

    def run(cell: Cell, on_result: OnResult | None) -> CellResult:
        assert on_result is not None
        begun.append(cell.label)
        if cell.label != "6.1":
            return share(cell, on_result)
        first, second, *_ = column("6.1", WHOLE["6.1"]).results
        on_result(first)
        told.set()
        assert select.select([stop], [], [], 5)[0], "it is told to stop"
        on_result(second)  # nobody wants it any more: this raises
        raise AssertionError("it goes on")

    board = Board(CELLS, 4)

    def interrupt(_: CellResult) -> None:
        assert told.wait(5)
        raise KeyboardInterrupt

    with (  # noqa: PT012
        Stop() as stop,
        pytest.raises(KeyboardInterrupt),
        on_this_machine(1, run, board, stop) as local,
    ):
        futures = [local.submit(cell) for cell in CELLS]
        run_cells(CELLS, lambda cell: futures[CELLS.index(cell)], board, interrupt)
    columns, waiting = board.columns()
    assert [(each.label, len(each.results), each.guest.state) for each in columns] == [
        ("5.10", 4, GuestState.BOOTED),
        ("6.1", 1, GuestState.LOST),
    ]
    assert columns[1].guest.why == "interrupted"
    assert waiting == ["7.2"]
    assert isinstance(futures[1].exception(5), Stopped)
    assert begun == ["5.10", "6.1"]


def test_a_column_without_one_of_its_shares_is_not_whole() -> None:
    board = Board(CELLS, 4)
    board.ended(CELLS[2], share(CELLS[2], None))
    (part,), waiting = board.columns()
    assert (part.label, part.guest.state, len(part.results)) == ("7.2", GuestState.LOST, 2)
    assert waiting == ["5.10", "6.1"]


def test_a_log_has_a_line_for_each_kernel() -> None:
    console = Console(file=io.StringIO(), width=80)
    board = Board(CELLS, 4)
    with (
        Stop() as stop,
        on_this_machine(1, share, board, stop) as local,
        showing(board, console) as on_column,
    ):
        run_cells(CELLS, local.submit, board, on_column)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "5.10    booted  4 passed  30.2 s",
        "6.1     booted  2 passed, 1 failed, 1 skipped  30.2 s",
        "7.2     booted  4 passed  30.2 s",
    ]


def test_the_live_table() -> None:
    board = Board(CELLS, 4)
    board.ended(CELLS[0], share(CELLS[0], None))
    board.begun(CELLS[1])
    board.told(CELLS[1], column("6.1", "p").results[0])
    board.begun(CELLS[2])
    console = Console(file=io.StringIO(), width=80)
    console.print(board_table(board))
    assert isinstance(console.file, io.StringIO)
    rows = [line.split()[:4] for line in console.file.getvalue().splitlines()[1:]]
    assert rows == [["5.10", "booted", "4", "0"], ["6.1", "running", "25", "%"], ["7.2", "booting", "0", "0"]]
