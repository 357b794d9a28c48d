"""`testbed replay`: shows a capsule, asks, and runs its scenario again, many times over."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from testbed.bpf.elf.file import read_object
from testbed.capsule.contents import Capsule
from testbed.capsule.model import Scenario
from testbed.capsule.rate import Tally, heading_of, wilson
from testbed.capsule.session import Repeat, Wanted, repeat
from testbed.capsule.unpack import Instead, unpacked
from testbed.errors import ExitCode, UsageError, command, errno_name
from testbed.lab.family import Family
from testbed.report.results import Collector, short_name
from testbed.report.session import Selection

_WAYS, _LINES = 5, 30
_DIFF_STYLES = {"-": "red", "+": "green"}


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line. ``test`` is the file of a test that is not shipped.

    ``instead`` is what is tested in place of what the capsule carries.
    """

    times: int = 100
    family: str = ""
    test: Path | None = None
    yes: bool = False
    instead: Instead = field(default_factory=Instead)


@dataclass(frozen=True)
class Outcome:
    """What came of the runs; ``where`` is the kernel that they ran on."""

    tally: Tally = field(default_factory=Tally)
    interrupted: bool = False
    seconds: float = 0.0
    where: str = ""

    @property
    def exit_code(self) -> ExitCode:
        """A run that failed says more than an end by Ctrl-C; nothing that ran says nothing."""
        if self.interrupted:
            return ExitCode.INTERRUPTED
        if self.tally.failed:
            return ExitCode.FAILED
        return ExitCode.PASSED if self.tally.passed else ExitCode.CANNOT_RUN


def print_capsule(capsule: Capsule, instead: Instead, console: Console) -> None:
    """What is in it, how its sources differ from this checkout's, and what is going to run."""
    for heading, words in capsule.lines():
        console.print(Text.assemble((f"{heading:<10}", "bold"), words), soft_wrap=True)
    for line in capsule.changes():
        console.print(Text(f"    {line}", _DIFF_STYLES.get(line[:1], "dim")), soft_wrap=True)
    console.print(Text.assemble(("runs: ", "bold"), instead.words(capsule)), soft_wrap=True)
    console.print()


def prepare(capsule: Capsule, request: Request, console: Console, ask: Callable[[str], bool]) -> Wanted:
    """All that has to be in order before anything of the capsule is used; asks where that is called for.

    `UsageError` where it is not in order, or not agreed to.
    """
    if request.family and request.family not in {each.value for each in Family}:
        names = ",".join(each.value for each in Family)
        raise UsageError("read --family", f"{request.family!r} is no family: choose from {names}")
    if request.instead.here and request.instead.objects:
        raise UsageError("use --here with --object", "each of them says what is tested")
    for path in request.instead.objects:
        read_object(path)
    wanted = _wanted(capsule, request, console)
    foreign = request.instead.foreign(capsule)
    if foreign and not request.yes:
        what = f"load {', '.join(foreign)} of {capsule.name} into the kernel"
        if not sys.stdin.isatty():
            fix = "--yes says that it may be done; --here runs bpf/ of this checkout instead"
            raise UsageError(what, "there is no terminal to ask at", fix)
        if not ask(f"{what[0].upper()}{what[1:]}?"):
            raise UsageError(what, "it was not agreed to; nothing has been run")
    return wanted


def _wanted(capsule: Capsule, request: Request, console: Console) -> Wanted:
    scenario = capsule.scenario
    nodeid, family = _in_family(scenario, request.family)
    name = short_name(nodeid)
    if scenario.shipped:
        if request.test is not None:
            raise UsageError("use --test", f"{name} is one of the testbed's own scenarios")
        return Wanted(nodeid, family, None, scenario.seed)
    if request.test is None:
        file = Path(scenario.nodeid.partition("::")[0]).name
        raise UsageError(
            f"replay {capsule.name}",
            f"{file} is a test of somebody's own, and what a capsule carries of it is not run",
            f"name the file of it that you trust: {command(f'replay {capsule.name} --test {file}')}",
        )
    try:
        data = request.test.read_bytes()
    except OSError as error:
        raise UsageError(f"read {request.test}", errno_name(error.errno or 0)) from error
    if hashlib.sha256(data).hexdigest() != scenario.test_sha256:
        words = f"{request.test} is not the file that the capsule was made with"
        console.print(Text.assemble(("note      ", "bold"), (words, "yellow")), soft_wrap=True)
    return Wanted(nodeid, family, request.test, scenario.seed)


def _in_family(scenario: Scenario, family: str) -> tuple[str, str]:
    """The node id of the scenario in a family, its own by default; and that family."""
    if not family or family == scenario.family:
        return scenario.nodeid, scenario.family
    head, _, parameters = scenario.nodeid.partition("[")
    named = f"-{parameters.rstrip(']')}-"
    if not scenario.family or f"-{scenario.family}-" not in named:
        raise UsageError("use --family", f"{short_name(scenario.nodeid)} is not run in families")
    other = named.replace(f"-{scenario.family}-", f"-{family}-", 1).strip("-")
    return f"{head}[{other}]", family


def run_here(capsule: Capsule, wanted: Wanted, request: Request, console: Console, where: str) -> Outcome:
    """Runs it in this process, on this kernel, with a lab made for each run. Errors as of `repeat`."""
    times = request.times
    tally = Tally()
    options = Selection(tail_calls=capsule.scenario.tail_calls, inner_maps=capsule.scenario.inner_maps)
    with unpacked(capsule, request.instead) as under_test, _progress(console, tally, times) as on_run:
        start = time.monotonic()
        repeated = Repeat(wanted, times, tally, Collector(), on_run)
        interrupted = repeat(wanted, under_test, options, repeated)
    return Outcome(tally, interrupted, time.monotonic() - start, where)


@contextmanager
def _progress(console: Console, tally: Tally, times: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    error = Console(stderr=True, highlight=False)
    shown = console.is_terminal and error.is_terminal
    with Progress(*columns, console=error, transient=True, disable=not shown) as progress:
        task = progress.add_task(f"0 of {times}")

        def on_run() -> None:
            done = tally.runs + tally.skipped
            progress.update(task, description=f"{done} of {times}: {tally.failed} failed")

        yield on_run


def print_outcome(
    outcome: Outcome, capsule: Capsule, instead: Instead, console: Console, *, as_json: bool
) -> None:
    """The rate, and the ways in which it failed, each with what the first of them said."""
    tally = outcome.tally
    if as_json:
        sys.stdout.write(f"{json.dumps(as_document(outcome, capsule, instead), indent=1)}\n")
        return
    for way, count in tally.ways.most_common(_WAYS):
        heading = heading_of(way, tally.examples[way])
        console.print(Text.assemble((f"{count} × ", "bold red"), heading), soft_wrap=True)
        lines = tally.examples[way].splitlines()
        for line in lines[:_LINES]:
            console.print(Text(f"    {line}"), soft_wrap=True)
        if len(lines) > _LINES:
            console.print(Text(f"    … {len(lines) - _LINES} more lines", "dim"))
    if len(tally.ways) > _WAYS:
        rest = sum(tally.ways.values()) - sum(count for _, count in tally.ways.most_common(_WAYS))
        console.print(f"{rest} × in {len(tally.ways) - _WAYS} other ways")
    facts = [outcome.where, f"{outcome.seconds:.1f} s"]
    if outcome.seconds and tally.runs:
        facts.append(f"{tally.runs / outcome.seconds:.3g} runs/s")
    if tally.skipped and tally.runs:
        facts.append(f"{tally.skipped} skipped")
    console.print(" · ".join(facts), style="dim")
    console.print(Text(str(tally), style="bold red" if tally.failed else "bold"))
    if outcome.interrupted:
        sys.stderr.write("testbed: interrupted; what had been run is shown above\n")


def as_document(outcome: Outcome, capsule: Capsule, instead: Instead) -> dict[str, object]:
    """The same for programs: shares are from 0 to 1, ``interval`` is that of 95 %."""
    tally = outcome.tally
    return {
        "capsule": Path(capsule.name).name,
        "scenario": short_name(capsule.scenario.nodeid),
        "under_test": instead.words(capsule),
        "kernel": outcome.where,
        "runs": tally.runs,
        "failed": tally.failed,
        "passed": tally.passed,
        "skipped": tally.skipped,
        "why_skipped": tally.why_skipped,
        "share": tally.failed / tally.runs if tally.runs else None,
        "interval": wilson(tally.failed, tally.runs),
        "ways": [
            {"way": way, "count": count, "example": tally.examples[way]}
            for way, count in tally.ways.most_common()
        ],
        "interrupted": outcome.interrupted,
        "seconds": round(outcome.seconds, 3),
    }
