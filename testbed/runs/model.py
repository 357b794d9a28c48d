"""What is kept of a run besides its stories, as plain values."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import testbed

FORMAT = 1
"""Of a run's folder, and of a capsule. It counts up when an older testbed could not read a newer one's."""


@dataclass(frozen=True)
class RunInfo:
    """What was run, where and when.

    ``started`` is UTC, as ISO 8601 has it. ``arguments`` are the command line's as they were given.
    ``under_test`` says in words what was tested, ``objects`` by base name and SHA-256. ``selection`` are
    the options that chose the scenarios, by their names.
    """

    started: str
    arguments: tuple[str, ...]
    under_test: str
    objects: tuple[tuple[str, str], ...] = ()
    selection: dict[str, str] = field(default_factory=dict)
    testbed: str = testbed.__version__
    kernel: str = ""
    machine: str = ""
    python: str = ""
    format: int = FORMAT


@dataclass(frozen=True)
class Verdict:
    """One scenario in one family, as `testbed check` shows it.

    ``test`` is what its story has as ``test``, ``outcome`` passed, failed, skipped or error; ``details``
    are why it did not pass, in full. ``row`` is what scenarios that share a row of the table have in
    common; empty where none does. ``story`` is the number of the story that was kept.
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
    story: int | None = None

    def words(self) -> str:
        """What it is found by beside its name: the rest of its row's, and its family."""
        return " ".join(filter(None, (self.heading, self.row or self.title, self.variant, self.family)))


@dataclass(frozen=True)
class Program:
    """What the verifier said of a program: how large it is, or why it was not ``loaded``."""

    name: str
    section: str
    loaded: bool
    said: str
    log: str = ""


@dataclass(frozen=True)
class Finding:
    """What `testbed doctor` found on the machine; ``ok`` None means that it was not tried."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Verdicts:
    """The end of a run: its rows, and what was found out by the way.

    ``interrupted`` is said of one that Ctrl-C ended.
    """

    rows: tuple[Verdict, ...]
    interrupted: bool = False
    programs: tuple[Program, ...] = ()
    findings: tuple[Finding, ...] = ()
    format: int = FORMAT


def info_now(
    arguments: Sequence[str],
    under_test: str,
    objects: Sequence[Path] = (),
    selection: Mapping[str, str] | None = None,
) -> RunInfo:
    """What is known of a run that begins now on this machine. The objects are read."""
    uname = platform.uname()
    return RunInfo(
        started=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        arguments=tuple(arguments),
        under_test=under_test,
        objects=tuple((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in objects),
        selection=dict(selection or {}),
        kernel=uname.release,
        machine=uname.machine,
        python=platform.python_version(),
    )
