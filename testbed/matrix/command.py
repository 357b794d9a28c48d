"""`testbed matrix`: the contract on many kernels, and the table that comes of it."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

import testbed
from testbed.errors import ExitCode
from testbed.guest.accel import accelerator
from testbed.guest.stop import Stop
from testbed.kernels.find import find_kernels
from testbed.kernels.progress import shown
from testbed.matrix.board import Board
from testbed.matrix.cell import Cell, run_cell
from testbed.matrix.cluster import connected
from testbed.matrix.details import print_details, summary_line
from testbed.matrix.files import Outputs
from testbed.matrix.honest import without_false_skips
from testbed.matrix.kernels import choose, wanted
from testbed.matrix.live import showing
from testbed.matrix.model import MatrixResult
from testbed.matrix.outcome import exit_code
from testbed.matrix.plan import default_jobs, plan, worth_shares
from testbed.matrix.request import Subject
from testbed.matrix.run import Submit, on_this_machine, run_cells
from testbed.matrix.table import matrix_tables
from testbed.report.outputs import Unwritten


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line. ``jobs`` 0: as many as the machine bears."""

    kernels: tuple[str, ...] = ()
    everything: bool = False
    subject: Subject = field(default_factory=Subject)
    jobs: int = 0
    scheduler: str = ""
    outputs: Outputs = field(default_factory=Outputs)
    full: bool = False


def list_kernels(request: Request, *, as_json: bool) -> str:
    """One kernel a line; or what GitHub Actions takes as a ``strategy.matrix``."""
    names = wanted(request.kernels, everything=request.everything)
    if as_json:
        return json.dumps({"include": [{"kernel": name} for name in names]})
    return "\n".join(names)


def run_matrix(request: Request, console: Console) -> ExitCode:
    """Runs it, shows it and writes it. Returns the exit code; `TestbedError` when nothing could run."""
    return concluded(
        gather(request, console), lambda matrix: print_matrix(console, matrix, full=request.full)
    )


@dataclass(frozen=True)
class Gathered:
    """A matrix that was run, whether Ctrl-C ended it, and what of it could not be written."""

    matrix: MatrixResult
    interrupted: bool
    unwritten: Unwritten


def gather(request: Request, console: Console) -> Gathered:
    """Runs and writes it, showing how it goes. Errors as `run_matrix`."""
    request.outputs.need_writable()
    scenarios = request.subject.validate()
    chosen = choose(wanted(request.kernels, everything=request.everything))
    whole = [request.subject.cell(each.label, each.kernel) for each in chosen]
    start = time.monotonic()
    interrupted = False
    with _prepared(request, whole, scenarios) as work:
        if work.note:
            console.print(Text(work.note, style="dim"), soft_wrap=True)
        try:
            with showing(work.board, console) as on_column:
                run_cells(work.cells, work.submit, work.board, on_column)
        except KeyboardInterrupt:
            interrupted = True
        columns, waiting = work.board.columns()
    notes = (work.note, *([f"interrupted before {', '.join(waiting)}"] if waiting else ()))
    seconds = time.monotonic() - start
    matrix = MatrixResult(tuple(without_false_skips(columns)), request.subject.origin, seconds, notes)
    unwritten = Unwritten()
    with unwritten.kept_back():
        request.outputs.write(matrix)
    return Gathered(matrix, interrupted, unwritten)


def concluded(gathered: Gathered, show: Callable[[MatrixResult], None]) -> ExitCode:
    """Shows it, and tells what it comes to; what could not be written is raised after that."""
    show(gathered.matrix)
    gathered.unwritten.tell()
    if gathered.interrupted:
        sys.stderr.write("testbed: interrupted; what had been run is shown above\n")
        return ExitCode.INTERRUPTED
    return exit_code(gathered.matrix)


@dataclass(frozen=True)
class _Work:
    cells: Sequence[Cell]
    submit: Submit
    board: Board
    note: str


@contextmanager
def _prepared(request: Request, whole: Sequence[Cell], scenarios: int) -> Iterator[_Work]:
    """Cells, and who runs them: this machine, or a cluster."""
    if request.scheduler:
        with connected(request.scheduler) as cluster:
            jobs = request.jobs or cluster.jobs
            cells = plan(whole, jobs, worth_shares(scenarios))
            note = f"{cluster.workers} workers of {request.scheduler}, {jobs} guests at a time"
            yield _Work(cells, cluster.submit(run_cell), Board(_ordered(cells, whole)), note)
        return
    names = [cell.kernel for cell in whole]
    with shown() as progress:  # all at once, and seen, before guests keep the machine busy
        kernels = find_kernels(names, modules=request.subject.modules, progress=progress)
    by = accelerator(kernels[0].image)
    cores = len(os.sched_getaffinity(0))
    jobs = request.jobs or default_jobs(cores, _free_memory(), len(whole), scenarios)
    cells = plan(whole, jobs, worth_shares(scenarios))
    jobs = min(jobs, len(cells))
    board = Board(_ordered(cells, whole), scenarios)
    with Stop() as stop, on_this_machine(jobs, partial(run_cell, stop=stop), board, stop) as local:
        note = f"{by.why}; {jobs} guest{'s' if jobs > 1 else ''} at a time"
        yield _Work(cells, local.submit, board, note)


def _ordered(cells: Sequence[Cell], whole: Sequence[Cell]) -> list[Cell]:
    """As the columns are, whatever is begun first."""
    order = {cell.label: index for index, cell in enumerate(whole)}
    return sorted(cells, key=lambda cell: order[cell.label])


def _free_memory() -> int:
    """Bytes that can be had without swapping."""
    told = Path("/proc/meminfo").read_text(encoding="ascii")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", told, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def print_matrix(console: Console, matrix: MatrixResult, *, full: bool) -> None:
    """The table, what is behind it, and a line that sums it up."""
    console.print()
    for table in matrix_tables(matrix.cells, console.width, full=full):
        console.print(table)
        console.print()
    print_details(console, matrix.cells)
    console.print()
    notes = [f"testbed {testbed.__version__}", matrix.origin, *matrix.notes]
    console.print(" · ".join(note for note in notes if note), style="dim", highlight=False, soft_wrap=True)
    console.print(summary_line(matrix))
