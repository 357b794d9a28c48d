"""What a report is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from testbed.observe.events import Story
from testbed.topology.model import Topology

if TYPE_CHECKING:
    from testbed.report.results import Result


@dataclass(frozen=True, slots=True)
class Verdict:
    """One scenario in one family: ``outcome`` is passed, failed, skipped or error.

    ``test`` is what its story has as ``test``; ``details`` are why it did not pass, in full. ``row`` is
    what scenarios that share a row of the table have in common; empty where none does.
    """

    test: str
    title: str
    outcome: str
    family: str = ""
    heading: str = ""
    variant: str = ""
    row: str = ""
    seconds: float = 0.0
    details: str = ""

    def words(self) -> str:
        """What it is found by beside its name: the rest of its row's, and its family."""
        return " ".join(filter(None, (self.heading, self.row or self.title, self.variant, self.family)))


def verdict_of(result: Result) -> Verdict:
    """The same of a scenario that ran just now; its test is the whole node id."""
    about = result.about
    return Verdict(
        result.nodeid,
        about.title,
        result.outcome,
        about.family,
        about.heading,
        about.variant,
        about.row,
        result.seconds,
        result.details,
    )


@dataclass(frozen=True, slots=True)
class Program:
    """What the verifier said of a program: ``loaded`` or not, and in ``said`` how large it is or why not."""

    name: str
    section: str
    loaded: bool
    said: str
    log: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What `testbed doctor` found: ``ok`` None means that it was not tried."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A run, as its report tells it. ``title`` stands above it all.

    ``facts`` are names and values: kernel, versions, machine, command, when it began. ``name`` is what
    commands know the run by: what is left out for its size is told with the command that prints it.
    """

    title: str
    verdicts: tuple[Verdict, ...] = ()
    stories: tuple[Story, ...] = ()
    topology: Topology | None = None
    facts: tuple[tuple[str, str], ...] = ()
    programs: tuple[Program, ...] = ()
    findings: tuple[Finding, ...] = ()
    name: str = ""
