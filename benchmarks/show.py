"""The figures as a person reads them: a table in the terminal, the same in Markdown; and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.measure import Measured, Row

HEADINGS = ("", "median", "min–max", "n", "noise", "ratio", "target", "")
_MET = {True: "met", False: "MISSED", None: ""}
_STYLES = {True: "green", False: "bold red", None: ""}


def number(value: float) -> str:
    """Three significant digits, with all of those before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def cells(measured: Measured, row: Row) -> list[str]:
    """A line of the table, as ``HEADINGS``; of a row without figures the reason in place of them."""
    figures = measured.figures.get(row.key)
    target = row.target.words(row.unit) if row.target else ""
    if figures is None:
        return [row.what, "–", why_missing(measured, row), "", "", "", target, ""]
    ratio = measured.ratio(row)
    reference = next((each for each in measured.section.rows if each.key == row.reference), row)
    return [
        row.what,
        f"{number(figures.median)} {row.unit}",
        f"{number(min(figures.samples))}–{number(max(figures.samples))}",
        str(len(figures.samples)),
        f"±{50 * figures.noise:.0f} %",
        "" if ratio is None else f"{number(ratio)}× {reference.short or reference.what}",
        target,
        _MET[measured.met(row)],
    ]


def why_missing(measured: Measured, row: Row) -> str:
    return measured.missing.get(row.key, "not measured")


def print_section(console: Console, measured: Measured) -> None:
    """One section of the table, and its notes."""
    table = Table(
        *HEADINGS,
        box=box.SIMPLE_HEAD,
        title=f"{escape(measured.section.title)}  [dim]({measured.rounds} × in {measured.seconds:.0f} s)[/]",
        title_justify="left",
        title_style="bold",
        header_style="dim",
    )
    for column in table.columns[1:5]:
        column.justify = "right"
    for row in measured.section.rows:
        line = [escape(cell) for cell in cells(measured, row)]
        if row.key not in measured.figures:
            line[2] = f"[dim]{line[2]}[/]"
        style = _STYLES[measured.met(row)]
        if style:
            line[-1] = f"[{style}]{line[-1]}[/]"
        table.add_row(*line)
    console.print(table)
    for note in measured.notes:
        console.print(f"  {escape(note)}", style="dim", highlight=False)


def markdown(sections: Sequence[Measured], facts: Sequence[str]) -> str:
    """All of it as Markdown."""
    return "\n".join([*(f"{fact}  " for fact in facts), "", *_markdown(sections)]).rstrip() + "\n"


def _markdown(sections: Sequence[Measured]) -> Iterator[str]:
    for measured in sections:
        yield f"### {measured.section.title}"
        yield ""
        yield "| " + " | ".join(HEADINGS) + " |"
        yield "|---|---:|---:|---:|---:|---|---|---|"
        for row in measured.section.rows:
            line = [cell.replace("|", "\\|") for cell in cells(measured, row)]
            if line[-1] == _MET[False]:
                line[-1] = f"**{line[-1]}**"
            yield "| " + " | ".join(line) + " |"
        yield ""
        if measured.notes:
            yield from (f"- {note}" for note in measured.notes)
            yield ""


def as_json(measured: Measured) -> dict[str, Any]:
    """A section with every sample, in order of measuring."""
    return {
        "name": measured.section.name,
        "title": measured.section.title,
        "rounds": measured.rounds,
        "seconds": measured.seconds,
        "notes": list(measured.notes),
        "rows": [_row_as_json(measured, row) for row in measured.section.rows],
    }


def _row_as_json(measured: Measured, row: Row) -> dict[str, Any]:
    figures = measured.figures.get(row.key)
    made: dict[str, Any] = {"key": row.key, "what": row.what, "unit": row.unit}
    made["reference"] = row.reference or None
    made["target"] = asdict(row.target) if row.target else None
    made["missing"] = why_missing(measured, row) if figures is None else None
    if figures is not None:
        made |= {
            "median": figures.median,
            "min": min(figures.samples),
            "max": max(figures.samples),
            "quartiles": list(figures.quartiles),
            "noise": figures.noise,
            "n": len(figures.samples),
            "samples": list(figures.samples),
        }
    made["ratio"] = measured.ratio(row)
    made["met"] = measured.met(row)
    return made


def verdict(sections: Sequence[Measured]) -> tuple[list[str], int, int]:
    """The targets that were missed, in words; how many were met; how many could not be looked at."""
    missed, met, unknown = [], 0, 0
    for measured in sections:
        for row in measured.section.rows:
            if row.target is None:
                continue
            is_met = measured.met(row)
            met += is_met is True
            unknown += is_met is None
            if is_met is False:
                _, median, *_, ratio, target, _ = cells(measured, row)
                figure = ratio if row.target.of == "ratio" else median
                missed.append(f"{measured.section.name}: {row.what}: {figure}, target {target}")
    return missed, met, unknown
