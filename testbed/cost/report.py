"""A cost run on a terminal, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from testbed.bpf.elf.loader import LoadOptions
from testbed.cost.contender import Contender, Spec
from testbed.cost.noise import Figure
from testbed.cost.result import WITHOUT, Comparison, Kind, Request, Result, Row, compared
from testbed.cost.rounds import Progress as Advance
from testbed.cost.run import run_bench
from testbed.errors import ExitCode

_ANY = 1000  # columns: no table is as wide
_HEADINGS = {
    Kind.RATE: "one thread at full speed",
    Kind.BPF: "BPF, ns a connection",
    Kind.PROGRAM: "programs, runs × ns",
    Kind.CALLBACK: "sockops callbacks, runs × ns",
    Kind.VERIFIED: "verified instructions",
    Kind.CODE: "machine code, bytes",
}


def _figure(row: Row, letter: str) -> Text:
    found = row.figures.get(letter)
    if found is None:
        return Text("–", style="dim")
    runs = f"{row.runs[letter]:,.2f} × " if letter in row.runs else ""
    noise = f" ±{_brief(100 * found.noise)} %" if found.count > 1 else ""
    return Text.assemble((runs, "dim"), f"{found.median:,.0f}", (noise, "dim"))


def _change(found: Comparison | None) -> Text:
    if found is None:
        return Text("–", style="dim")
    style = "bold red" if found.is_worse else "green" if found.is_better else "dim"
    return Text(_percent(found.ratio), style=style)


def _percent(ratio: Figure) -> str:
    if ratio.count == 1 and ratio.median == 1:
        return "the same"
    low, high = (100 * (each - 1) for each in (ratio.low, ratio.high))
    around = "" if ratio.count == 1 else f" ({low:+.0f} … {high:+.0f})"
    return f"{100 * (ratio.median - 1):+.1f} %{around}"


def _brief(percent: float) -> str:
    return f"{percent:.0f}" if percent >= 10 else f"{percent:.1f}"


def table(result: Result, letters: Sequence[str]) -> Table:
    """Of one set, or of two: the second one against the first."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    made.add_column("", no_wrap=True)
    for title in (*letters, *([f"{letters[1]} against {letters[0]}"] if len(letters) > 1 else [])):
        made.add_column(title, justify="right", no_wrap=True)
    heading = None
    for row in result.rows:
        if row.values.keys().isdisjoint(letters):
            continue
        if row.kind is not heading:
            heading = row.kind
            made.add_row(Text(_HEADINGS[row.kind], style="bold cyan"))
        cells = [_figure(row, letter) for letter in letters]
        if len(letters) > 1:
            cells.append(_change(compared(row, letters[0], letters[1], result.request.threshold)))
        made.add_row(f"  {row.name}", *cells)
    return made


def _of_sets(contenders: Sequence[Contender]) -> Iterator[Text]:
    """Who is compared."""
    for each in contenders:
        for number, (heading, words) in enumerate(each.notes):
            letter = each.letter if number == 0 else ""
            yield Text.assemble((f"{letter:<3}", "bold cyan"), (f"{heading:<10}", "bold"), words)
        yield Text.assemble("   ", (f"{'loading':<10}", "bold"), _loading(each))


def _loading(each: Contender) -> str:
    stack = max((size.stack for size in each.sizes.values()), default=0)
    words = [f"maps of {each.map_bytes / 1024:,.0f} KiB"]
    if each.load_ms:
        verifier = sum(size.verification_us for size in each.sizes.values()) / 1000
        words = [f"{each.load_ms:.1f} ms, {verifier:.1f} of it the verifier's (once)", *words]
    if stack:
        words.append(f"stack of {stack} bytes at most")
    return " · ".join(words)


def _footnotes(result: Result) -> Iterator[str]:
    request = result.request
    passes = len(request.rounds_of_passes())
    yield (
        f"{request.rounds} rounds of {request.connections} connections of each set, in"
        f" {request.family.value}, in turn; loaded {f'anew {passes} times' if passes > 1 else 'once'}"
    )
    yield "medians, and where they surely lie (99 %); runs are those of a connection, ns those of a run"
    if result.scale is not None:
        sums = ", ".join(f"{letter} {100 * part:.1f} %" for letter, part in result.sums.items())
        yield (
            f"a program that does nothing takes {result.scale.kernel:.0f} ns a run by the kernel's count;"
            f" the callbacks add up to {sums} of their programs"
        )


def print_whole(console: Console, made: Table) -> None:
    """As wide as it is: a narrow terminal wraps its lines, and cuts no figure short."""
    needed = Measurement.get(console, console.options.update(max_width=_ANY), made).maximum
    width = console.width
    console.width = max(needed, width)
    try:
        console.print(made)
    finally:
        console.width = width


def print_result(console: Console, result: Result) -> ExitCode:
    """Prints what was found, regressions last. Returns 1 where there is one, else 0."""
    for line in _of_sets(result.contenders):
        console.print(line, soft_wrap=True)
    first, *later = [each.letter for each in result.contenders]
    without = result.rows[0].figures[WITHOUT]
    rate = f"{without.median:,.0f} connections/s ±{_brief(100 * without.noise)} %"
    console.print(Text.assemble("   ", ("without   ", "bold"), rate))
    for letters in [[first, each] for each in later] or [[first]]:
        console.print()
        print_whole(console, table(result, letters))
    console.print()
    for words in (*_footnotes(result), f"Linux {platform.uname().release} {platform.uname().machine}"):
        console.print(Text(words, style="dim"), soft_wrap=True)
    for words in result.notes:
        console.print(Text(words, style="yellow"), soft_wrap=True)
    regressions = result.regressions()
    for each in regressions:
        against = f"{each.after} against {each.before}"
        console.print(Text(f"regression, {against}: {each}", style="bold red"), soft_wrap=True)
    if later and not regressions:
        words = f"no regression of more than {100 * result.request.threshold:g} % beyond the noise"
        console.print(Text(f"{words}, in {result.seconds:.1f} s", style="bold green"), soft_wrap=True)
    return ExitCode.FAILED if regressions else ExitCode.PASSED


def as_json(result: Result) -> str:
    """Everything that was measured, round by round; what it comes to; and the regressions."""
    request = {**dataclasses.asdict(result.request), "family": result.request.family.value}
    return json.dumps(
        {
            "request": request,
            "sets": {each.letter: _set(each) for each in result.contenders},
            "rows": [_row(row) for row in result.rows],
            "scale_ns": dataclasses.asdict(result.scale) if result.scale else None,
            "callbacks_add_up_to": result.sums,
            "comparisons": [_comparison(each) for each in result.comparisons()],
            "regressions": [_comparison(each) for each in result.regressions()],
            "notes": result.notes,
            "seconds": result.seconds,
            "kernel": platform.uname().release,
        },
        indent=1,
        ensure_ascii=False,
    )


def _set(each: Contender) -> dict[str, object]:
    return {
        "text": each.spec.text,
        "objects": [str(path) for path in each.spec.paths],
        "programs": {
            name: {"kind": key.partition(" ")[0], **dataclasses.asdict(each.sizes[key])}
            for key, name in each.keys.items()
        },
        "load_ms": each.load_ms,
        "map_bytes": each.map_bytes,
        "notes": [list(note) for note in each.notes],
    }


def _row(row: Row) -> dict[str, object]:
    return {
        "kind": row.kind.name.lower(),
        "name": row.name,
        "unit": row.kind.unit,
        "sets": {
            letter or "without": {
                **dataclasses.asdict(found),
                "runs_per_connection": row.runs.get(letter),
                "values": list(row.values[letter]),
            }
            for letter, found in row.figures.items()
        },
    }


def _comparison(each: Comparison) -> dict[str, object]:
    return {
        "kind": each.row.kind.name.lower(),
        "name": each.row.name,
        "before": each.before,
        "after": each.after,
        "size": each.size,
        "low": each.ratio.low - 1,
        "high": each.ratio.high - 1,
        "is_regression": each.is_worse,
        "text": str(each),
    }


@contextmanager
def _progress(console: Console, rounds: int) -> Iterator[Advance]:
    """A bar, on a terminal alone. No thread draws it, which would be in the way of what is measured."""
    if not console.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("rounds"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=2 * rounds)

        def advance() -> None:
            bar.advance(task)
            bar.refresh()

        yield advance


def bench_report(
    specs: Sequence[Spec], abi: str, options: LoadOptions, request: Request, console: Console
) -> tuple[ExitCode, str]:
    """Loads sets, measures them and prints what came of it. Returns the exit code, and all of it as JSON."""
    with _progress(console, request.rounds) as progress:
        result = run_bench(specs, abi, options, request, progress)
    return print_result(console, result), as_json(result)
