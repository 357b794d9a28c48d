"""What a report is made of."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.observe.events import Story
from testbed.runs.model import Finding, Program, Verdict
from testbed.topology.model import Topology


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
