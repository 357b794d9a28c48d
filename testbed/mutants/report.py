"""What is printed of a campaign: a table by file, the survivors as differences, which check kills what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.errors import command
from testbed.mutants.model import Mutant, Result, Verdict
from testbed.mutants.pool import Ended
from testbed.mutants.score import Score

_STYLES = {
    Verdict.KILLED: "green",
    Verdict.SURVIVED: "bold red",
    Verdict.INVALID: "dim",
    Verdict.EQUIVALENT: "dim",
    Verdict.ERROR: "bold red",
}


def print_score(
    console: Console, score: Score, target: float, *, everything: bool, options: str = ""
) -> None:
    """All of it. ``options`` name what the mutants are made of, for who runs one again."""
    console.print(_by_file(score))
    if score.left_out:
        console.print()
        console.print(
            Text(f"left out: {len(score.left_out)} scenarios that fail on the unchanged objects", "yellow")
        )
        for check in score.left_out:
            console.print(Text(f"    {check}"), soft_wrap=True)
    for result in (*score.of(Verdict.ERROR), *score.of(Verdict.SURVIVED), *_otherwise_bad(score)):
        console.print()
        for line in _difference(result, options):
            console.print(line, soft_wrap=True)
    console.print()
    for renderable in _matrix(score, everything=everything):
        console.print(renderable, soft_wrap=True)
    console.print()
    console.print(_summary(score, target), soft_wrap=True)


def _otherwise_bad(score: Score) -> list[Result]:
    """Picked by hand and no mutant at all; argued to be equivalent and killed."""
    none = [result for result in score.missed if result.verdict in {Verdict.INVALID, Verdict.EQUIVALENT}]
    return [
        *none,
        *(
            replace(result, reason=f"was said to be equivalent: {score.argued[result.mutant.id]}")
            for result in score.refuted
        ),
    ]


def _by_file(score: Score) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("file")
    for heading in ("mutants", *(verdict.value for verdict in _STYLES if _shown(score, verdict)), "score"):
        table.add_column(heading, justify="right")
    for file in (*score.files, ""):
        total = sum(file in {"", result.mutant.file} for result in score.results)
        counts = [
            Text(str(score.count(verdict, file) or "–"), style=style if score.count(verdict, file) else "dim")
            for verdict, style in _STYLES.items()
            if _shown(score, verdict)
        ]
        table.add_row(file or Text("all", style="bold"), str(total), *counts, _percent(score.percent(file)))
    return table


def _shown(score: Score, verdict: Verdict) -> bool:
    return verdict is not Verdict.ERROR or bool(score.count(verdict))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def _difference(result: Result, options: str) -> Iterator[Text]:
    mutant = result.mutant
    named = f" {mutant.name}" if mutant.name else ""
    yield Text.assemble((f"{result.verdict.value} {mutant.place}{named}", _STYLES[result.verdict]))
    yield from (Text(f"    - {line}", style="red") for line in mutant.old.splitlines())
    yield from (Text(f"    + {line}", style="green") for line in mutant.new.splitlines())
    if result.reason:
        yield Text(f"    {result.reason}")
    asked = mutant.name or mutant.id
    again = f"sudo {command(f'mutants{options} --only {asked}')}"
    twin = f"  (the same code as {result.twin})" if result.twin else ""
    yield Text(f"    again: {again}{twin}", style="dim")


def _matrix(score: Score, *, everything: bool) -> Iterator[Table | Text]:
    """Rows are checks, the strongest first: how many mutants of each file."""
    kills = score.kills()
    what = "fails on" if everything else "kills first"
    if kills:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        table.add_column(what, justify="right", no_wrap=True)
        table.add_column("check", overflow="fold")
        table.add_column("mutants of")
        for check, counts in sorted(kills.items(), key=lambda each: (-each[1].total(), each[0])):
            of = ", ".join(f"{PurePosixPath(file).name} {count}" for file, count in counts.most_common())
            table.add_row(str(counts.total()), check, Text(of, style="dim"))
        yield table
    idle = score.idle()
    if everything and idle:
        yield Text(f"\nchecks that fail on no mutant: {len(idle)}", style="yellow")
        yield from (Text(f"    {check}") for check in idle)
    elif idle:
        yield Text(
            f"{len(idle)} checks killed none first; --all runs every check on every mutant and names those"
            " that fail on none",
            style="dim",
        )


def _summary(score: Score, target: float) -> Text:
    counts = ", ".join(
        f"{score.count(verdict)} {verdict.value}" for verdict in _STYLES if _shown(score, verdict)
    )
    text = f"{counts}; score {_percent(score.percent())}, {score.runs} runs in {score.seconds:.0f} s"
    if score.missed:
        text += f"; {len(score.missed)} picked by hand not killed"
    enough = score.enough(target)
    if not enough and (score.percent() or 0) < target:
        text += f"; the target is {target:g} %"
    return Text(text, style="bold green" if enough else "bold red")


def print_mutants(console: Console, mutants: Sequence[Mutant]) -> None:
    """A line each."""
    for mutant in mutants:
        old, new = (
            " ⏎ ".join(part.strip() for part in text.splitlines()) for text in (mutant.old, mutant.new)
        )
        name = f"  {mutant.name}" if mutant.name else ""
        console.print(
            f"{mutant.id}  {mutant.place}{name}  {old}  →  {new}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def print_runs(console: Console, runs: Sequence[Ended], checks: Sequence[str], seconds: float) -> bool:
    """What failed in runs of the unchanged set, by check. Returns whether nothing did."""
    alarms = Counter(checks[failure.item] for run in runs for failure in run.failures)
    whys = {checks[failure.item]: failure.why for run in runs for failure in run.failures}
    for check, count in alarms.most_common():
        console.print(Text(f"{count:>4} × {check}: {whys[check]}", style="red"), soft_wrap=True)
    broken = [run for run in runs if run.how != "end"]
    for run in broken:
        console.print(Text(f"run {run.key + 1}: {run.reason}", style="red"), soft_wrap=True)
    bad = sum(bool(run.failures) or run.how != "end" for run in runs)
    ran = sum(run.ran for run in runs)
    times = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    text = f"{times} of the unchanged programs, {ran} scenarios in {seconds:.0f} s: "
    text += f"{bad} with a false alarm" if bad else "no false alarm"
    console.print(Text(text, style="bold red" if bad else "bold green"))
    return not bad
