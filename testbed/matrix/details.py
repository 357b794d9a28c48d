"""What stands below the table: failures, skips, guests that did not get there, scenarios that ran nowhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from testbed.errors import ExitCode
from testbed.guest.state import GuestState
from testbed.matrix.model import CellResult, MatrixResult
from testbed.matrix.outcome import exit_code
from testbed.matrix.rows import ran_nowhere, tally
from testbed.report.results import Result, in_order, short_name
from testbed.report.shown import printable
from testbed.report.table import print_failures, print_violations

_CONSOLE_LINES = 25  # of a guest's console: a panic's call trace, and what led to it
_NUMBER = re.compile(r"(?:0x)?[0-9a-f]*\d[0-9a-f]*")
_STORY = "callbacks that fired"
_NAMED = 10  # scenarios that ran nowhere, named one by one


def print_details(console: Console, columns: Sequence[CellResult]) -> None:
    """All of it; nothing where everything passed."""
    for labels, results in failures_by_kernels(columns):
        console.print()
        console.print(Text(f"── on {on_kernels(labels, columns)}", style="bold"))
        print_failures(console, results)
        print_violations(console, results)
    _print_skips(console, columns)
    print_guests(console, columns)
    _print_nowhere(console, columns)


def on_kernels(labels: Sequence[str], columns: Sequence[CellResult]) -> str:
    """``every kernel`` where that is so."""
    if len(labels) == len(columns) > 1:
        return "every kernel"
    return ", ".join(labels)


def failures_by_kernels(columns: Sequence[CellResult]) -> list[tuple[tuple[str, ...], list[Result]]]:
    """Failures by the kernels that have the same: of the same violations, else of the same words.

    Each as it was on the first of them.
    """
    same: dict[tuple[str, str, object], list[tuple[str, Result]]] = {}
    for column in columns:
        for result in column.results:
            if result.outcome in {"failed", "error"}:
                key = (result.nodeid, result.outcome, result.violated or _words(result.details))
                same.setdefault(key, []).append((column.label, result))
    by_kernels: dict[tuple[str, ...], dict[str, Result]] = {}
    for each in same.values():
        labels = tuple(label for label, _ in each)
        by_kernels.setdefault(labels, {})[each[0][1].nodeid] = each[0][1]
    order = {column.label: index for index, column in enumerate(columns)}
    return [
        (labels, in_order(by_kernels[labels]))
        for labels in sorted(by_kernels, key=lambda labels: [order[label] for label in labels])
    ]


def _words(details: str) -> str:
    """What two failures of one kind share: neither numbers (ports, times), nor what fired in the lab."""
    return _NUMBER.sub("#", details.partition(_STORY)[0])


def skips_by_kernels(columns: Sequence[CellResult]) -> list[tuple[str, int, tuple[str, ...]]]:
    """Reason, how many scenarios of a kernel were skipped for it, and the kernels of which that is so."""
    counted: dict[tuple[str, int], list[str]] = {}
    for column in columns:
        reasons = Counter(result.details for result in column.results if result.outcome == "skipped")
        for reason, count in reasons.items():
            counted.setdefault((reason, count), []).append(column.label)
    return [(reason, count, tuple(labels)) for (reason, count), labels in counted.items()]


def _print_skips(console: Console, columns: Sequence[CellResult]) -> None:
    found = skips_by_kernels(columns)
    if found:
        console.print()
    for reason, count, labels in found:
        where = on_kernels(labels, columns)
        told = Text.assemble((f"{count:>4} skipped", "yellow"), (f" on {where}: ", "bold"), reason)
        console.print(told, soft_wrap=True)


def print_guests(console: Console, columns: Sequence[CellResult]) -> None:
    """Guests that did not end as they should, or in which nothing could be run: why, and the console."""
    for column in columns:
        if column.guest.state is GuestState.BOOTED and not column.error:
            continue
        console.print()
        state = column.guest.state.value if column.guest.state is not GuestState.BOOTED else "nothing was run"
        release = f" ({column.guest.release})" if column.guest.release not in {"", column.label} else ""
        why = column.guest.why or column.error
        console.print(
            Text.assemble((f"{column.label}{release}: {state}", "bold magenta"), f": {why}" if why else ""),
            soft_wrap=True,
        )
        for line in printable(column.guest.console).splitlines()[-_CONSOLE_LINES:]:
            console.print(Text(f"     {line}", style="dim"), soft_wrap=True)


def _print_nowhere(console: Console, columns: Sequence[CellResult]) -> None:
    nowhere = ran_nowhere(columns)
    if not nowhere:
        return
    console.print()
    words = "scenario" if len(nowhere) == 1 else "scenarios"
    console.print(Text(f"{len(nowhere)} {words} ran on no kernel of this matrix:", style="bold yellow"))
    for result in nowhere[:_NAMED]:
        console.print(Text(f"     {short_name(result.nodeid)}: {result.details}"), soft_wrap=True)
    if len(nowhere) > _NAMED:
        console.print(Text(f"     … {len(nowhere) - _NAMED} more"))


def summary_line(matrix: MatrixResult) -> Text:
    """``12 kernels: 6012 passed, 3 failed, 33 skipped; 1 panic, in 214.0 s``."""
    count = len(matrix.cells)
    told = str(tally([result for column in matrix.cells for result in column.results]))
    states = Counter(column.guest.state for column in matrix.cells)
    del states[GuestState.BOOTED]
    text = f"{count} kernel{'s' if count != 1 else ''}: {told}"
    if states:
        text += "; " + ", ".join(f"{number} {state.value}" for state, number in states.items())
    good = exit_code(matrix) is ExitCode.PASSED
    return Text(f"{text} in {matrix.seconds:.1f} s", style="bold green" if good else "bold red")
