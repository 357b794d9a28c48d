"""`testbed check --kernel V`: the contract in a guest of that kernel, with check's own table."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from testbed.check import Request as CheckRequest
from testbed.check import print_results
from testbed.errors import ExitCode, UsageError
from testbed.guest.accel import accelerator
from testbed.guest.state import GuestState
from testbed.guest.stop import Stop
from testbed.kernels.find import find_kernels
from testbed.kernels.progress import shown
from testbed.matrix.board import Board
from testbed.matrix.cell import run_cell
from testbed.matrix.details import print_guests
from testbed.matrix.files import Outputs
from testbed.matrix.live import showing
from testbed.matrix.model import CellResult, MatrixResult
from testbed.matrix.outcome import exit_code
from testbed.matrix.plan import plan, worth_shares
from testbed.matrix.request import Subject
from testbed.matrix.run import on_this_machine, run_cells


def check_in_guest(request: CheckRequest, kernel: str, modules: Path | None, console: Console) -> ExitCode:
    """Runs the scenarios there and prints their verdicts. Returns the exit code, as `run_check`.

    ``-n`` says how many guests share the work: as many as there are CPUs otherwise. `UsageError` for
    options that are of no use in a guest.
    """
    if request.list_only or request.stories is not None:
        raise UsageError("use --list or --stories with --kernel", "they are about this machine's own run")
    if not (request.workers == "auto" or request.workers.isdecimal()):
        raise UsageError("read -n", f"{request.workers!r} is neither a number nor auto")
    subject = Subject(
        request.objects,
        request.abi,
        request.tail_calls,
        request.inner_maps,
        request.family,
        request.expression,
        modules,
    )
    outputs = Outputs(junit=request.junit)
    outputs.need_writable()
    scenarios = subject.validate()
    start = time.monotonic()
    with shown() as progress:
        found = find_kernels([kernel], modules=modules, progress=progress)[0]
    by = accelerator(found.image)
    cores = len(os.sched_getaffinity(0))
    jobs = int(request.workers) if request.workers.isdecimal() and request.workers != "0" else cores
    cells = plan([subject.cell(found.label, kernel)], jobs, worth_shares(scenarios))
    board = Board(cells, scenarios)
    interrupted = False
    with ExitStack() as stack:
        stop = stack.enter_context(Stop())
        run = partial(run_cell, stop=stop)
        local = stack.enter_context(on_this_machine(len(cells), run, board, stop))
        try:
            with showing(board, console) as on_column:
                run_cells(cells, local.submit, board, on_column)
        except KeyboardInterrupt:
            interrupted = True
    columns, _ = board.columns()
    if interrupted and not columns:
        raise KeyboardInterrupt
    (column,) = columns
    matrix = MatrixResult((column,), subject.origin, time.monotonic() - start)
    outputs.write(matrix)
    _print(console, request, matrix, column, by.why)
    if interrupted:
        sys.stderr.write("testbed: interrupted; what had been run is shown above\n")
        return ExitCode.INTERRUPTED
    return exit_code(matrix)


def _print(
    console: Console, request: CheckRequest, matrix: MatrixResult, column: CellResult, why: str
) -> None:
    families = [family.strip() for family in request.family.split(",")]
    facts = (matrix.origin, f"Linux {column.guest.release or column.label} in a guest", why)
    print_results(console, list(column.results), families, facts, matrix.seconds)
    if column.guest.state is not GuestState.BOOTED or column.error:
        print_guests(console, (column,))
