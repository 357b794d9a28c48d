"""`testbed mutants`: how well the contract's scenarios tell a good program from a bad one, measured."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from testbed.errors import ExitCode, UsageError
from testbed.mutants.build import cpus
from testbed.mutants.campaign import Campaign, demand_all_pass, remove_what_the_killed_left
from testbed.mutants.model import Built, Mutant, Verdict
from testbed.mutants.progress import Bar, progress_bar
from testbed.mutants.report import print_mutants, print_runs, print_score
from testbed.mutants.score import Score
from testbed.mutants.subject import Prepared, Subject, era_of, of_objects, of_sources
from testbed.mutants.suite import with_scenarios
from testbed.mutants.twins import one_of_each, with_twins
from testbed.report.outputs import write_output
from testbed.report.session import Selection

HAND_PICKED = "hand-picked"


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line. ``at_once`` 0: as many as there are CPUs."""

    source: Path | None = None
    objects: tuple[Path, ...] = ()
    abi: str = ""
    tail_calls: tuple[str, ...] = ()
    inner_maps: tuple[str, ...] = ()
    families: str = ""
    expression: str = ""
    only: tuple[str, ...] = ()
    sample: int = 0
    seed: int = 0
    at_once: int = 0
    everything: bool = False
    false_alarms: int = 0
    target: float = 95.0
    list_only: bool = False
    json_file: Path | None = None

    @property
    def origin(self) -> str:
        """The options that say what mutants are made of."""
        words = [f" --object {path}" for path in self.objects]
        return "".join([f" --source {self.source}"] if self.source is not None else words)


def measure(request: Request, console: Console) -> ExitCode:
    """Runs the scenarios on mutants, or lists these. `TestbedError` when nothing could run."""
    _validate(request)
    subject = of_objects(request.objects) if request.objects else of_sources(request.source)
    chosen = choose(subject.mutants, request)
    if request.list_only:
        print_mutants(console, chosen)
        return ExitCode.PASSED
    for note in subject.notes:
        console.print(Text(note, style="yellow"), soft_wrap=True)
    return _Measurement(request, console).run(subject, chosen)


def _validate(request: Request) -> None:
    if request.objects and request.source is not None:
        raise UsageError("use --source and --object", "mutants are made of one or of the other")
    if request.only and request.sample:
        raise UsageError("use --only and --sample", "one of them says which mutants to run")
    if not request.objects and (request.tail_calls or request.inner_maps):
        raise UsageError("use --tail-call or --inner-map", "they are about objects, and --object names none")


def choose(mutants: Sequence[Mutant], request: Request) -> list[Mutant]:
    """Those asked for, in their order. `UsageError` for a name that none has."""
    if request.sample:
        drawn = random.Random(request.seed).sample(range(len(mutants)), min(request.sample, len(mutants)))  # noqa: S311 (a draw)
        return [mutants[number] for number in sorted(drawn)]
    if not request.only:
        return list(mutants)
    for name in request.only:
        if not any(_is(mutant, name) for mutant in mutants):
            raise UsageError(
                f"find the mutant {name}", "there is none of that id or name", "--list shows them all"
            )
    return [mutant for mutant in mutants if any(_is(mutant, name) for name in request.only)]


def _is(mutant: Mutant, name: str) -> bool:
    """Whether a mutant is meant: by its id, its name, its file, or as one of those picked by hand."""
    words = {mutant.id, mutant.file} | ({mutant.name, HAND_PICKED} if mutant.name else set())
    return name in words


class _Measurement:
    """One measurement, from compiling to the report."""

    def __init__(self, request: Request, console: Console) -> None:
        self._request = request
        self._console = console
        self._at_once = request.at_once or cpus()
        self._begun = time.monotonic()
        self._code = ExitCode.PASSED

    def run(self, subject: Subject, chosen: Sequence[Mutant]) -> ExitCode:
        prepared = subject.prepare()
        with progress_bar(self._console) as bar:
            built = [] if self._request.false_alarms else self._build(prepared, chosen, bar)
            selection = self._selection(prepared)

            def work(session: pytest.Session) -> None:
                campaign = Campaign(session, self._at_once, bar.step)
                if self._request.false_alarms:
                    self._unchanged(campaign, prepared, bar)
                else:
                    self._mutants(campaign, prepared, subject, built, bar)

            with_scenarios(selection, work)
        return self._code

    def _selection(self, prepared: Prepared) -> Selection:
        request = self._request
        return Selection(
            request.families,
            request.expression,
            request.abi or era_of(prepared.objects),
            request.objects,
            request.tail_calls,
            request.inner_maps,
        )

    def _build(self, prepared: Prepared, chosen: Sequence[Mutant], bar: Bar) -> list[Built]:
        """Each mutant; the objects of one of each code are kept, of which twins have the digest alone."""
        bar.begin("compiling", len(chosen))
        return list(prepared.build_all(chosen, self._at_once, lambda: bar.step("compiled")))

    def _unchanged(self, campaign: Campaign, prepared: Prepared, bar: Bar) -> None:
        bar.begin("unchanged", self._request.false_alarms)
        runs = campaign.again(prepared.objects, self._request.false_alarms)
        bar.end()
        seconds = time.monotonic() - self._begun
        self._write(
            {
                "runs": len(runs),
                "scenarios": sum(run.ran for run in runs),
                "seconds": round(seconds, 1),
                "alarms": [
                    {"run": run.key + 1, "scenario": campaign.scenarios[each.item], "why": each.why}
                    for run in runs
                    for each in run.failures
                ],
            }
        )
        if not print_runs(self._console, runs, campaign.scenarios, seconds):
            self._code = ExitCode.FAILED

    def _mutants(
        self, campaign: Campaign, prepared: Prepared, subject: Subject, built: Sequence[Built], bar: Bar
    ) -> None:
        request = self._request
        bar.begin("unchanged", 1)
        baseline = campaign.baseline(prepared.objects)
        if not request.objects:
            demand_all_pass(baseline, campaign.scenarios)
        all_asked = request.everything or bool(request.only)
        ran, decided = one_of_each(built, prepared.digest, subject.argued, run_argued=all_asked)
        bar.begin("mutants", len(ran))
        results = campaign.run(ran, baseline, everything=request.everything)
        if any(result.verdict is Verdict.ERROR or result.reason for result in results):
            remove_what_the_killed_left()
        bar.end()
        verdicts = with_twins(built, ran, results, decided)
        left_out = dict.fromkeys(campaign.scenarios[failure.item] for failure in baseline.failing)
        seconds = time.monotonic() - self._begun
        score = Score(
            verdicts,
            tuple(campaign.checks),
            tuple(campaign.scenarios),
            tuple(left_out),
            len(ran),
            seconds,
            subject.argued,
        )
        print_score(
            self._console, score, request.target, everything=request.everything, options=request.origin
        )
        self._write(score.as_dict())
        if not score.enough(request.target):
            self._code = ExitCode.FAILED

    def _write(self, value: object) -> None:
        path = self._request.json_file
        if path is None:
            return
        write_output(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
