"""`testbed explore`: runs random programs until one fails or the time is over, and prints what was found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from hypothesis.configuration import set_hypothesis_home_dir
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from testbed.acquired import acquired
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.words import parse_inner_map, parse_tail_call
from testbed.bpf.program_set import ProgramSet
from testbed.errors import ExitCode, UsageError, command
from testbed.kmesh.abi import Absent
from testbed.kmesh.explore.paste import as_test
from testbed.kmesh.explore.run import explore_for
from testbed.kmesh.explore.stage import Failure, Journal, Stage, set_stage
from testbed.kmesh.history import make_history
from testbed.kmesh.profile import Profile, load_profile
from testbed.kmesh.reference import load_reference
from testbed.kmesh.subject import load_subject
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.observe.tap import TapProgram


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line. ``words`` are its options, but for seconds and seed."""

    seconds: float
    seed: int
    families: tuple[Family, ...]
    objects: tuple[Path, ...] = ()
    abi: str = ""
    tail_calls: tuple[str, ...] = ()
    inner_maps: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        given = [f"--object {path}" for path in self.objects]
        given += [f"--abi {self.abi}"] * bool(self.abi)
        given += [f"--tail-call {each}" for each in self.tail_calls]
        given += [f"--inner-map {each}" for each in self.inner_maps]
        return " ".join(given)

    @property
    def again(self) -> str:
        """The command line that runs the same programs once more."""
        families = "" if len(self.families) == len(Family) else ",".join(each.value for each in self.families)
        options = [f"--seconds {self.seconds:g}"] * (self.seconds != DEFAULT_SECONDS)
        options += [f"--family {families}"] * bool(families)
        return command(" ".join(["explore", f"--seed {self.seed}", *options, self.words]).rstrip())


DEFAULT_SECONDS = 60.0


def run_explore(request: Request, console: Console) -> ExitCode:
    """Explores. Returns the exit code; `TestbedError` when nothing could run."""
    if not request.objects and (request.tail_calls or request.inner_maps):
        raise UsageError("use --tail-call or --inner-map", "they are about objects, and --object names none")
    # Hypothesis keeps what it has read of modules; without this in the current directory
    home = platformdirs.user_cache_path("sockops-testbed") / "hypothesis"
    acquired("kept folder", home)
    set_hypothesis_home_dir(home)
    journal, failure, is_interrupted = Journal(), None, False
    try:
        with ExitStack() as stack:
            stage = _stage(request, console, journal, stack)
            console.print(f"seed {request.seed}: {request.again}", markup=False, soft_wrap=True)
            with _progress(console, journal, request.seconds):
                failure = explore_for(stage, request.seed, request.seconds)
    except KeyboardInterrupt:
        is_interrupted, failure = True, journal.failure
    if failure is None:
        console.print(f"{journal}: none failed", markup=False)
    else:
        _print_failure(console, failure, journal, request)
    if is_interrupted:
        sys.stderr.write("testbed: interrupted; what had been run is shown above\n")
        return ExitCode.INTERRUPTED
    return ExitCode.PASSED if failure is None else ExitCode.FAILED


def _stage(request: Request, console: Console, journal: Journal, stack: ExitStack) -> Stage:
    loader = stack.enter_context(ObjectLoader())
    program_set, profile = _load(request, loader, console, stack)
    bench = stack.enter_context(Bench())
    tap_program = stack.enter_context(TapProgram(loader))
    try:
        stage = set_stage(bench, tap_program, program_set, profile, request.families, journal)
    except Absent as error:
        raise UsageError("explore", str(error)) from error
    make_history(bench, program_set, profile)
    return stage


def _load(
    request: Request, loader: ObjectLoader, console: Console, stack: ExitStack
) -> tuple[ProgramSet, Profile]:
    if not request.objects:
        return stack.enter_context(load_reference()), load_profile(request.abi or "main")
    options = LoadOptions(
        tail_calls=tuple(map(parse_tail_call, request.tail_calls)),
        inner_maps=dict(map(parse_inner_map, request.inner_maps)),
    )
    subject = stack.enter_context(load_subject(loader, request.objects, request.abi, options))
    for heading, words in subject.lines():
        console.print(Text.assemble((f"{heading:<10}", "bold"), words), soft_wrap=True)
    return subject.program_set, subject.profile


@contextmanager
def _progress(console: Console, journal: Journal, seconds: float) -> Iterator[None]:
    """A line on a terminal, drawn again after each program; it leaves nothing behind."""
    columns = (TextColumn("{task.description}"), TimeElapsedColumn(), TextColumn(f"of {seconds:g} s"))
    hidden = not console.is_terminal
    with Progress(*columns, console=console, auto_refresh=False, transient=True, disable=hidden) as progress:
        task = progress.add_task("exploring")
        journal.on_program = _drawing(progress, task, journal)
        yield


def _drawing(progress: Progress, task: object, journal: Journal) -> Callable[[], None]:
    def draw() -> None:
        doing = "exploring" if journal.failure is None else "one failed; looking for a shorter one"
        progress.update(task, description=f"{doing}: {journal}", refresh=True)  # type: ignore[arg-type]

    return draw


def _print_failure(console: Console, failure: Failure, journal: Journal, request: Request) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    steps = f"{len(failure.steps)} step{'' if len(failure.steps) == 1 else 's'}"
    say(f"FAIL: {journal}; the shortest program that fails has {steps}", "bold red")
    if not failure.is_steady:
        say("It does not fail each time: this is what was seen the last time that it did.")
    say(f"\n{failure.error or type(failure.error).__name__}\n")
    say("As a test, to paste into a file of your own:\n", "bold")
    say(as_test(failure))
    options = f" {request.words}" if request.words else ""
    say(f"run it:        sudo pytest test_found.py{options}")
    say(f"explore again: {request.again}")
