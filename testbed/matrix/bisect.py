"""`testbed bisect`: the first kernel on which a scenario, or a command, changes its verdict."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from testbed.errors import ExitCode, TestbedError, UsageError
from testbed.guest.command import run_command
from testbed.guest.files import taken_along
from testbed.guest.guest import GuestEnded
from testbed.guest.state import GuestState
from testbed.guest.system import find_system
from testbed.kernels.find import exact, find_kernels, versions_between
from testbed.kernels.versions import series, version_key
from testbed.matrix.cell import run_cell
from testbed.matrix.model import CellResult
from testbed.matrix.own_objects import own_objects
from testbed.matrix.request import Subject
from testbed.matrix.rows import tally
from testbed.matrix.run import CellFunction
from testbed.matrix.search import Trial, search, trials_left
from testbed.report.results import short_name
from testbed.report.shown import printable

_SKIP = 125  # a command's way to say that this version tells nothing, as in `git bisect run`
_STYLES = {Trial.GOOD: "green", Trial.BAD: "bold red", Trial.UNTESTED: "yellow"}

Output = Callable[[int, bytes], None]
CommandFunction = Callable[[str, Sequence[str], Output], int]
"""Runs words in a guest of an exact version, tells their output as it comes, and returns their exit code."""


@dataclass(frozen=True)
class Told:
    """What came of one version, in words, and with what there is to see of it."""

    trial: Trial
    words: str
    details: str = ""


Try = Callable[[str], Told]


@dataclass(frozen=True)
class Request:
    """What was asked for: the ends, and what is run on each kernel, scenarios or a command.

    Of the subject, a command gets the objects alone.
    """

    good: str
    bad: str
    subject: Subject = field(default_factory=Subject)
    command: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def attempt(self) -> Try:
        """How one version is tried. `TestbedError` before anything boots where that makes no sense."""
        self.subject.validate()
        if self.command:
            return command_on(self.command, in_guests(taken_along([*self.subject.objects, *self.files])))
        return scenarios_on(self.subject, run_cell)


def scenarios_on(subject: Subject, run: CellFunction) -> Try:
    """Good: something passed and nothing failed. Bad: something failed."""

    def told(version: str) -> Told:
        return judge(run(subject.cell(version, version), None))

    return told


def judge(result: CellResult) -> Told:
    """What a kernel's scenarios come to, for a bisection."""
    guest = result.guest
    failed = [each for each in result.results if each.outcome in {"failed", "error"}]
    words = str(tally(result.results))
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        return Told(Trial.BAD, f"{words}: {short_name(failed[0].nodeid)}{more}", failed[0].details)
    if guest.state is not GuestState.BOOTED or result.error:
        why = guest.why or result.error
        return Told(Trial.UNTESTED, f"{guest.state.value}: {why}", guest.console)
    if any(each.outcome == "passed" for each in result.results):
        return Told(Trial.GOOD, words)
    reason = next((each.details for each in result.results), "no scenario matches")
    return Told(Trial.UNTESTED, f"{words}: {reason}")


def command_on(command: Sequence[str], run: CommandFunction) -> Try:
    """As `git bisect run` has it: exit code 0 is good, 125 tells nothing, any other is bad."""

    def told(version: str) -> Told:
        said = bytearray()
        try:
            code = run(version, command, lambda _, data: said.extend(data))
        except GuestEnded as ended:
            return Told(Trial.UNTESTED, str(ended), ended.report.console)
        trial = Trial.GOOD if code == 0 else Trial.UNTESTED if code == _SKIP else Trial.BAD
        text = printable(said.decode(errors="replace")).strip()
        last = f": {text.splitlines()[-1]}" if text and code else ""
        return Told(trial, f"exit code {code}{last}", text)

    return told


def in_guests(files: Mapping[str, bytes]) -> CommandFunction:
    """Commands in guests that have these files, by absolute path; commands start in /root."""
    system = find_system(own_objects())

    def run(version: str, words: Sequence[str], output: Output) -> int:
        (kernel,) = find_kernels([version])
        return run_command(kernel, words, system, files=files, output=output)

    return run


def versions_of(
    good: str,
    bad: str,
    version: Callable[[str], str] = exact,
    between: Callable[[str, str], Sequence[str]] = versions_between,
) -> list[str]:
    """All exact versions from the good to the bad one: older to newer, or back, to find what mended it.

    ``version`` says which exact version a name means, ``between`` which lie between two, oldest first.
    """
    first, last = version(good), version(bad)
    if first == last:
        raise UsageError("bisect", f"--good and --bad are both {first}")
    if version_key(first) < version_key(last):
        return list(between(first, last))
    return list(reversed(between(last, first)))


class Bisection:
    """Tries versions, tells each step in a line, and keeps what is known."""

    def __init__(self, versions: Sequence[str], attempt: Try, console: Console) -> None:
        self.versions = versions
        self.good: int | None = None
        self.bad: int | None = None
        self.boots = 0
        self._attempt = attempt
        self._console = console

    def trial(self, index: int) -> Trial:
        """One boot, and its line."""
        start = time.monotonic()
        self.boots += 1
        version = self.versions[index]
        try:
            told = self._attempt(version)
        except TestbedError as error:
            told = Told(Trial.UNTESTED, f"cannot {error}")
        if told.trial is Trial.GOOD:
            self.good = index
        elif told.trial is Trial.BAD:
            self.bad = index
        seconds = time.monotonic() - start
        line = Text.assemble(
            (f"{version:<24} ", "bold"),
            (f"{told.trial.value:<8}", _STYLES[told.trial]),
            f" {seconds:6.1f} s  {told.words.partition(chr(10))[0]}",
        )
        if self.good is not None and self.bad is not None and (left := trials_left(self.good, self.bad)):
            line.append(f"  (at most {left} more)", style="dim")
        self._console.print(line, soft_wrap=True)
        self._last = told
        return told.trial

    def run(self) -> ExitCode:
        """Both ends first: that they are as was said. Then what is between them."""
        last = len(self.versions) - 1
        for index, name, wanted in ((0, "--good", Trial.GOOD), (last, "--bad", Trial.BAD)):
            if (found := self.trial(index)) is not wanted:
                return self._wrong_end(index, name, found)
        ends = {
            index
            for index in range(1, last)
            if series(self.versions[index]) != series(self.versions[index + 1])
        }
        found_at = search(len(self.versions), self.trial, ends)
        between = [self.versions[index] for index in found_at.untested]
        self.tell()
        if between:
            self._console.print(Text(f"could not be tested, between them: {', '.join(between)}", "yellow"))
        return ExitCode.CANNOT_RUN if between else ExitCode.PASSED

    def _wrong_end(self, index: int, name: str, found: Trial) -> ExitCode:
        version = self.versions[index]
        if found is Trial.UNTESTED:
            sys.stderr.write(f"testbed: cannot bisect: {name} {version} could not be tested\n")
        else:
            sys.stderr.write(f"testbed: cannot bisect: {name} {version} is {found.value}\n")
        if self._last.details:
            sys.stderr.write("".join(f"    {line}\n" for line in self._last.details.splitlines()[-40:]))
        return ExitCode.CANNOT_RUN if found is Trial.UNTESTED else ExitCode.USAGE

    def tell(self) -> None:
        """What is known by now."""
        known = [
            f"{words}: {self.versions[index]} ({series(self.versions[index])})"
            for words, index in (("first bad", self.bad), ("last good", self.good))
            if index is not None
        ]
        boots = f"{self.boots} boot{'s' if self.boots > 1 else ''} over {len(self.versions)} versions"
        self._console.print(Text(", ".join([*known, boots]), style="bold"), soft_wrap=True)


def bisect(request: Request, console: Console) -> ExitCode:
    """Runs it, and tells each step."""
    attempt = request.attempt()
    bisection = Bisection(versions_of(request.good, request.bad), attempt, console)
    try:
        return bisection.run()
    except KeyboardInterrupt:
        bisection.tell()
        sys.stderr.write("testbed: interrupted; what is known is shown above\n")
        return ExitCode.INTERRUPTED
