"""What a matrix is made of: cells, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from testbed.guest.state import GuestReport, GuestState
from testbed.report.results import Result


@dataclass(frozen=True)
class CellResult:
    """What came of the scenarios on one kernel. ``label`` is the kernel's, and its column's, name.

    ``error`` is why nothing could be run there although the guest did what it was asked for (the
    programs were rejected, say), in a person's words.
    """

    label: str
    guest: GuestReport
    results: tuple[Result, ...] = ()
    error: str = ""

    @property
    def lasted(self) -> bool:
        """Whether every scenario has its verdict: the guest did all that it was asked for."""
        return self.guest.state is GuestState.BOOTED and not self.error and bool(self.results)

    @property
    def passed(self) -> bool:
        """Whether all that ran passed, and something did."""
        outcomes = {result.outcome for result in self.results}
        return self.lasted and outcomes <= {"passed", "skipped"} and "passed" in outcomes


@dataclass(frozen=True)
class MatrixResult:
    """All cells in the order of their columns, oldest kernel first as a rule; what was under test; when."""

    cells: tuple[CellResult, ...]
    origin: str
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())
    """Lines for a person: which accelerator, what ran nowhere."""
