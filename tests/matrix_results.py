"""Results of kernels as tests of the matrix make them by hand."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.guest.state import GuestReport, GuestState
from testbed.matrix.model import CellResult
from testbed.report.about import About
from testbed.report.results import Result

BOOTED = GuestReport(GuestState.BOOTED, "6.1.0-50-cloud-amd64", 7.5, 30.25, accelerator="tcg")
PANIC = GuestReport(
    GuestState.PANIC,
    "7.2-cloud-amd64",
    7.5,
    12.0,
    why="Kernel panic - not syncing: Fatal exception in interrupt",
    console="[    9.1] BUG: kernel NULL pointer dereference\n\x1b[31mKernel panic\x1b[0m ]]> \x00 <b>\udcff",
)
LACKS = "needs bpf_get_netns_cookie in sockops programs: Linux 5.15"
_OUTCOMES = {"p": "passed", "f": "failed", "s": "skipped", "e": "error"}


def result(
    name: str,
    outcome: str = "passed",
    family: str = "v4",
    *,
    heading: str = "Closing",
    row: str = "",
    details: str = "",
    violated: tuple[str, ...] = (),
) -> Result:
    """Of the scenario ``test_4_close.py::test_NAME[FAMILY]``."""
    if not details and outcome != "passed":
        details = LACKS if outcome == "skipped" else f"E   {name} is not as it should be"
    about = About(heading, name.replace("_", " "), "", family, row)
    nodeid = f"test_4_close.py::test_{name}[{family}]"
    return Result(about, nodeid, ("test_4_close.py", 0), outcome, 0.01, details, violated)


def column(
    label: str, outcomes: str, guest: GuestReport = BOOTED, names: Sequence[str] = (), error: str = ""
) -> CellResult:
    """A kernel whose scenarios a, b, c … ended as the letters p, f, s and e say; ``.`` was not run."""
    names = names or [chr(ord("a") + index) for index in range(len(outcomes))]
    results = [
        result(name, _OUTCOMES[letter]) for name, letter in zip(names, outcomes, strict=True) if letter != "."
    ]
    return CellResult(label, guest, tuple(results), error)
