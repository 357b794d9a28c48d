"""What a matrix comes to."""

from __future__ import annotations

from testbed.errors import ExitCode
from testbed.matrix.model import MatrixResult


def exit_code(matrix: MatrixResult) -> ExitCode:
    """A scenario that failed says more than a guest that did not last, or a matrix in which nothing passed.

    A kernel that skips all, being too old for the objects, is in order beside one that does not.
    """
    outcomes = {result.outcome for column in matrix.cells for result in column.results}
    if outcomes & {"failed", "error"}:
        return ExitCode.FAILED
    lasted = all(column.lasted for column in matrix.cells)
    return ExitCode.PASSED if lasted and "passed" in outcomes else ExitCode.CANNOT_RUN
