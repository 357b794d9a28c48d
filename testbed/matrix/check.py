"""`testbed check --kernel V`: the contract in a guest of that kernel, with check's own table."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from testbed.check import Request as CheckRequest
from testbed.check import print_results
from testbed.errors import ExitCode, UsageError
from testbed.matrix.command import Request, concluded, gather
from testbed.matrix.details import print_guests
from testbed.matrix.files import Outputs
from testbed.matrix.model import MatrixResult
from testbed.matrix.request import Subject
from testbed.report.one_family import not_done


def check_in_guest(request: CheckRequest, kernel: str, modules: Path | None, console: Console) -> ExitCode:
    """Runs the scenarios there and prints their verdicts. Returns the exit code, as `run_check`.

    ``-n`` says how many guests share the work: as many as the machine bears otherwise. `UsageError` for
    options that are of no use in a guest.
    """
    if request.list_only or request.stories is not None:
        raise UsageError("use --list or --stories with --kernel", "they are about this machine's own run")
    if request.hold or request.run is not None or request.capsule is not None:
        raise UsageError(
            "use --hold-on-fail, --run or --capsule with --kernel", "a guest is gone when its run has ended"
        )
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
        request.quick,
    )
    jobs = int(request.workers) if request.workers.isdecimal() else 0
    asked = Request((kernel,), subject=subject, jobs=jobs, outputs=Outputs(junit=request.junit))
    return concluded(gather(asked, console), lambda matrix: _print(console, request, matrix))


def _print(console: Console, request: CheckRequest, matrix: MatrixResult) -> None:
    families = [family.strip() for family in request.family.split(",")]
    for column in matrix.cells:
        where = f"Linux {column.guest.release or column.label} in a guest"
        facts = (matrix.origin, where, *matrix.notes)
        left_out = not_done(families) if request.quick else ""
        print_results(console, list(column.results), families, facts, matrix.seconds, left_out=left_out)
    print_guests(console, matrix.cells)
