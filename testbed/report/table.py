"""The table of scenarios and verdicts, and what is printed of those that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.errors import command
from testbed.report.results import Result, short_name

_TOLD = 5  # failures whose stories are printed
_SHOWN = {
    "passed": ("pass", "green"),
    "failed": ("FAIL", "bold red"),
    "error": ("ERROR", "bold red"),
    "skipped": ("skip", "yellow"),
}


def _verdict(results: Sequence[Result]) -> Text:
    """A word; with the number of them where several scenarios share the row."""
    if not results:
        return Text("–", style="dim")
    counts = Counter(result.outcome for result in results)
    worst = next(outcome for outcome in ("error", "failed", "passed", "skipped") if counts[outcome])
    word, style = _SHOWN[worst]
    if len(results) == 1:
        return Text(word, style=style)
    of = f" of {len(results)}" if worst in {"error", "failed"} else ""
    return Text(f"{counts[worst]}{of} {word}", style=style)


def verdict_table(results: Sequence[Result], families: Sequence[str]) -> Table:
    """Rows are scenarios, or groups of them, under their headings, columns families."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("scenario", ratio=1, overflow="fold")
    for family in families:
        table.add_column(family, justify="center", min_width=6)
    rows: dict[tuple[str, str, str], dict[str, list[Result]]] = {}
    for result in results:
        key = (result.about.heading, result.about.row or result.about.title, result.about.variant)
        rows.setdefault(key, {}).setdefault(result.about.family, []).append(result)
    heading = None
    for (of_heading, title, variant), by_family in rows.items():
        if of_heading != heading:
            heading = of_heading
            table.add_row(Text(of_heading, style="bold cyan"))
        name = Text(f"  {title}")
        if variant:
            name.append(f" ({variant})", style="dim")
        table.add_row(name, *(_verdict(by_family.get(family, [])) for family in families))
    return table


def print_failures(console: Console, results: Sequence[Result]) -> None:
    """Each failure: its name, its title, and why.

    Those that violate nothing of the contract that has not been shown before, or stopped at the same
    line, are counted.
    """
    shown: set[str] = set()
    alike: list[Result] = []
    number = 0
    for result in results:
        if result.outcome not in {"failed", "error"}:
            continue
        if result.alike and shown.issuperset(result.alike):
            alike.append(result)
            continue
        shown.update(result.alike)
        console.print()
        console.print(
            Text(f"{_SHOWN[result.outcome][0]} {short_name(result.nodeid)}", style="bold red"), soft_wrap=True
        )
        console.print(Text(f"     {result.about.title}", style="italic"), soft_wrap=True)
        number += 1
        console.print(Text(result.details if number <= _TOLD else _first_words(result)), soft_wrap=True)
    counts = Counter(tuple(sorted(result.alike)) for result in alike)
    if counts:
        console.print()
    for violated, count in counts.most_common():
        words = "scenarios" if count > 1 else "scenario"
        told = Text.assemble(
            (f"{count:>4} more {words} failed", "bold red"), f" as above: {', '.join(violated)}"
        )
        console.print(told, soft_wrap=True)


def _first_words(result: Result) -> str:
    """What went wrong, without its story: where many have failed, the first ones tell theirs."""
    first, _, rest = result.details.partition("\n")
    return f"{first}\n({rest.count(chr(10)) + 1} more lines: {command('story last')})" if rest else first


def print_violations(console: Console, results: Sequence[Result]) -> None:
    """Each kind of violation, in how many scenarios it came, and in which first."""
    first: dict[str, Result] = {}
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result.violated)
        for kind in result.violated:
            first.setdefault(kind, result)
    if not counts:
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("scenarios", justify="right", no_wrap=True)
    table.add_column("not as the contract says", no_wrap=True)
    table.add_column("first in", overflow="fold")
    for kind, count in counts.most_common():
        table.add_row(str(count), Text(kind, style="red"), Text(short_name(first[kind].nodeid)))
    console.print()
    console.print(table)


def print_skips(console: Console, results: Sequence[Result]) -> None:
    """Each reason that something was skipped for, and how often."""
    reasons = Counter(result.details for result in results if result.outcome == "skipped")
    if reasons:
        console.print()
    for reason, count in reasons.most_common():
        console.print(Text.assemble((f"{count:>4} skipped  ", "yellow"), reason), soft_wrap=True)


def summary(results: Sequence[Result], seconds: float) -> Text:
    """``165 passed, 1 failed in 3.1 s``."""
    counts = {outcome: sum(result.outcome == outcome for result in results) for outcome in _SHOWN}
    words = {"passed": "passed", "failed": "failed", "error": "errors", "skipped": "skipped"}
    if counts["error"] == 1:
        words["error"] = "error"
    text = ", ".join(f"{counts[outcome]} {word}" for outcome, word in words.items() if counts[outcome])
    bad = counts["failed"] + counts["error"]
    return Text(f"{text or 'nothing ran'} in {seconds:.1f} s", style="bold red" if bad else "bold green")
