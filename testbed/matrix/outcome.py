"""What a matrix comes to."""

from __future__ import annotations

from testbed.errors import ExitCode
from testbed.matrix.model import MatrixResult


def exit_code(matrix: MatrixResult) -> ExitCode:
    """A scenario that failed says more than a kernel on which nothing was tested, or not to the end."""
    outcomes = {result.outcome for column in matrix.cells for result in column.results}
    if outcomes & {"failed", "error"}:
        return ExitCode.FAILED
    tested = all(column.passed for column in matrix.cells)
    return ExitCode.PASSED if matrix.cells and tested else ExitCode.CANNOT_RUN
