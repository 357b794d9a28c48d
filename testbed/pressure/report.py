"""A pressure run's result on a terminal, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from testbed.errors import ExitCode
from testbed.pressure import run
from testbed.pressure.result import Request, Result, median_rate
from testbed.pressure.subject import Pressed


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _rates(result: Result) -> Table:
    table = _table("connections/s", "median", "lowest", "highest", "slices")
    for name, slices in (("without the program", result.without), ("through it", result.with_program)):
        rates = [each.rate for each in slices] or [0.0]
        table.add_row(name, *map(_number, (median_rate(slices), min(rates), max(rates), len(slices))))
    return table


def _rings(result: Result) -> Table:
    table = _table("ring", "records expected", "received", "lost", "it holds")
    for ring in result.rings:
        lost = Text(_number(ring.lost), style="bold red" if ring.lost else "")
        name = f"{ring.role} ({ring.name})" + (", stalled" if ring.stalled else "")
        table.add_row(name, _number(ring.expected), _number(ring.received), lost, _number(ring.capacity))
    return table


def _maps(result: Result) -> Table:
    table = _table("map", "entries before", "after", "of", "KiB before", "after")
    for each in result.maps:
        foreign = f", {each.strangers} foreign" if each.strangers else ""
        table.add_row(
            f"{each.name} ({each.kind}){foreign}",
            *map(_number, (each.before, each.after, each.max_entries if each.before is not None else None)),
            *(_number(size / 1024) for size in (each.memory_before, each.memory_after)),
        )
    return table


def _facts(result: Result) -> Iterator[str]:
    """What no table has, a line each."""
    whole = "" if result.whole is None else f"; {result.whole:,} with all of their records, each once"
    active, passive = (
        result.kernel[host].get(name, 0)
        for host, name in (("client", "TcpActiveOpens"), ("server", "TcpPassiveOpens"))
    )
    yield (
        f"{result.opened:,} connections opened, {result.accepted:,} accepted"
        f" (by the kernel's count {active:,} and {passive:,}){whole}"
    )
    managed = [
        name for name, on in (("client", result.client_managed), ("server", result.server_managed)) if on
    ]
    yield f"managed: {' and '.join(managed) or 'neither host'}; left in the map: {result.managed_left}"
    verdicts = result.verdicts
    refused = "".join(f", {count:,} refused with {name}" for name, count in verdicts.refused.items())
    late = f", {verdicts.late:,} of them written when the connection had closed" if verdicts.late else ""
    untold = f", {verdicts.untold:,} of connections whose close nobody reported" if verdicts.untold else ""
    yield f"verdicts: {verdicts.written:,} written{refused}; left: {verdicts.left:,}{late}{untold}"
    yield f"sockets left in the sockhash: {result.sockhash_left}"
    before, after = (size / 2**20 for size in (result.resident_before, result.resident_after))
    yield f"memory of this process: {before:.1f} MiB before, {after:.1f} after"


def print_result(console: Console, result: Result) -> ExitCode:
    """Prints what was found, what is wrong last. Returns the exit code."""
    for table in (_rates(result), _rings(result), _maps(result)):
        console.print(table)
        console.print()
    for line in _facts(result):
        console.print(Text(line), soft_wrap=True)
    for words, count in result.complaints.items():
        console.print(Text(f"logged {count:,} times: {words}", style="yellow"), soft_wrap=True)
    problems = result.problems()
    ratio = median_rate(result.with_program) / (median_rate(result.without) or 1)
    kernel = f"Linux {platform.uname().release} {platform.uname().machine}"
    console.print()
    console.print(Text(f"{result.origin} · {kernel}", style="dim"), soft_wrap=True)
    for problem in problems:
        console.print(Text(problem, style="bold red"), soft_wrap=True)
    lost = sum(ring.lost or 0 for ring in result.rings)
    words = f"{result.opened:,} connections in {result.seconds:.1f} s, at {ratio:.0%} of the rate without it"
    words += f"; {lost:,} records lost" + (", as was asked for" if lost and not problems else "")
    console.print(Text(words, style="bold red" if problems else "bold green"), soft_wrap=True)
    if result.interrupted:
        sys.stderr.write("testbed: interrupted; what was measured until then is shown above\n")
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED if problems else ExitCode.PASSED


def as_json(result: Result) -> str:
    """Everything, and what is derived from it: rates, ratio, what was lost, and the problems in words."""
    data = dataclasses.asdict(dataclasses.replace(result, first_records=(), first_ports=()))
    del data["first_records"], data["first_ports"]
    for name in ("with_program", "without"):
        slices = getattr(result, name)
        data[name] = {"median": median_rate(slices), "rates": [each.rate for each in slices]}
    data["ratio"] = median_rate(result.with_program) / (median_rate(result.without) or 1)
    data["connections"] = {"opened": result.opened, "accepted": result.accepted, "whole": data.pop("whole")}
    for ring, each in zip(data["rings"], result.rings, strict=True):
        ring["lost"] = each.lost
    data["problems"] = result.problems()
    return json.dumps(data, indent=1, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{value!r} is no JSON")


@contextmanager
def _progress(console: Console, total: int) -> Iterator[run.Progress | None]:
    """A bar, on a terminal alone. No thread draws it, which would keep the consumer waiting."""
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("connections"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=total)

        def advance(more: int) -> None:
            bar.advance(task, more)
            bar.refresh()

        yield advance


def pressure_report(pressed: Pressed, request: Request, console: Console) -> tuple[ExitCode, str]:
    """Puts a set under pressure and prints what came of it. Returns the exit code, and all of it as JSON.

    0 when no record is lost and nothing is left, or when what was lost was asked for and adds up.
    """
    with _progress(console, 2 * request.connections) as progress:
        result = run.run_pressure(pressed, request, progress)
    return print_result(console, result), as_json(result)
