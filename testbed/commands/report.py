"""`testbed report`."""

from __future__ import annotations

import os
import platform
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from testbed.commands.story import RunName, tell_damage

if TYPE_CHECKING:
    from testbed.report.page.model import Page
    from testbed.runs.model import Finding
    from testbed.runs.reader import Run
    from testbed.topology.model import Topology

EPILOG = (
    "Examples:  [bold]testbed report last -o report.html[/]"
    "  ·  [bold]testbed report failed.capsule.zip -o failed.html[/]"
)


def report(
    run: RunName,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Where to; it is one file of HTML.")
    ],
) -> None:
    """Write a run as one page: verdicts, stories as diagrams, the topology, and where it ran.

    The page needs no other file and no network.
    """
    from testbed.report.outputs import write_output
    from testbed.report.page.html import report_html
    from testbed.runs.reader import open_run

    opened = open_run(run)
    tell_damage(opened)
    text = report_html(_page(opened, run))
    write_output(output, text)
    rows, kept = len(opened.end.rows), len(opened.kept)
    typer.echo(
        f"{output}: {rows} verdict{'' if rows == 1 else 's'}, {kept} stor{'y' if kept == 1 else 'ies'}"
    )


def _page(run: Run, asked: str) -> Page:
    from testbed.report.page.model import Page

    return Page(
        title=run.info.under_test,
        verdicts=run.end.rows,
        stories=tuple(kept.story for kept in run.kept),
        topology=_topology(run),
        facts=tuple(_facts(run)),
        programs=run.end.programs,
        findings=_findings(run),
        name=asked,
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    info = run.info
    facts = [
        ("started", info.started),
        ("command", shlex.join(info.arguments)),
        ("under test", info.under_test),
        *(("object", f"{name}, sha256 {digest}") for name, digest in info.objects),
        *(info.selection.items()),
        ("kernel", f"Linux {info.kernel} {info.machine}"),
        ("testbed", info.testbed),
        ("Python", info.python),
    ]
    if run.note:
        facts.append(("not whole", run.note))
    return [(name, words) for name, words in facts if words]


def _topology(run: Run) -> Topology | None:
    """The one of all its labs; None where they are of several, each of which has its own picture."""
    from pydantic import ValidationError

    from testbed.topology.model import Topology

    documents = [kept.story.topology for kept in run.kept]
    if not documents or any(each != documents[0] for each in documents):
        return None
    try:
        return Topology.model_validate(documents[0])
    except ValidationError:
        return None  # of a version that had others: the stories are to be read all the same


def _findings(run: Run) -> tuple[Finding, ...]:
    """What the doctor said then; or says now, where this is the machine that the run was on."""
    from testbed.runs.model import Finding

    uname = platform.uname()
    if run.end.findings:
        return run.end.findings
    if os.geteuid() != 0 or (run.info.kernel, run.info.machine) != (uname.release, uname.machine):
        return ()
    from testbed.doctor import examine

    return tuple(Finding(each.name, each.ok, each.detail, each.fix) for each in examine())
