"""`testbed story`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from testbed.errors import UsageError, command

if TYPE_CHECKING:
    from rich.console import Console

    from testbed.observe.events import Story
    from testbed.runs.reader import Kept, Run

EPILOG = (
    "Examples:  [bold]testbed story last[/]  ·  [bold]testbed story last --test closing_deletes[/]"
    "  ·  [bold]testbed story last --test 3 --connection 1[/]"
    "  ·  [bold]testbed story failed.capsule.zip --pcapng failed.pcapng[/]"
)
_FAILED = {"failed", "error"}

RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run's folder or name, [bold]last[/], or a capsule.", show_default=False
    ),
]


def story(
    run: RunName,
    connection: Annotated[
        int | None, typer.Option("--connection", metavar="N", min=1, help="Only this connection of it.")
    ] = None,
    test: Annotated[
        str,
        typer.Option("--test", metavar="EXPR", help="Stories of tests that match, as with -k; or a number."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects instead.")] = False,
    pcapng: Annotated[
        Path | None, typer.Option("--pcapng", metavar="FILE", help="Write the packets there instead.")
    ] = None,
) -> None:
    """Print what happened in the tests of a run, as it was kept.

    A run of several stories is listed, unless --test says which are to be told.
    """
    from rich.console import Console

    from testbed.runs.reader import open_run

    console = Console(highlight=False)
    opened = open_run(run)
    tell_damage(opened)
    chosen = _chosen(opened, test)
    if connection is not None:
        chosen = [_only(chosen, connection)]
    if pcapng is not None:
        _write_packets(opened, chosen, pcapng)
    elif as_json:
        _print_json(chosen)
    elif len(chosen) > 1 and not test:
        _list(opened, chosen, run, console)
    else:
        for kept in chosen:
            _print(kept.story, console)


def tell_damage(run: Run) -> None:
    """What is not as it should be with a run, as warnings."""
    if run.note:
        sys.stderr.write(f"testbed: {run.name}: {run.note}\n")
    for words in run.damaged:
        sys.stderr.write(f"testbed: cannot {words}\n")


def _chosen(run: Run, test: str) -> list[Kept]:
    if not run.kept:
        why = "none has been kept: `check` keeps those of failures, and with --record all of them"
        raise UsageError(
            f"tell the stories of {run.name}", "there is none to be read" if run.damaged else why
        )
    if not test:
        return list(run.kept)
    if test.isdecimal():
        found = [kept for kept in run.kept if kept.number == int(test)]
    else:
        found = _matching(run.kept, test)
    if not found:
        raise UsageError(
            f"find the story {test!r} in {run.name}",
            "there is none of such a test",
            f"`{command(f'story {run.name}')}` lists them",
        )
    return found


def _matching(kept: Sequence[Kept], text: str) -> list[Kept]:
    """By the grammar of pytest's -k, on names as they are printed."""
    from _pytest.mark import expression as grammar

    from testbed.report.results import short_name

    try:
        expression = grammar.Expression.compile(text)
    except getattr(grammar, "ParseError", SyntaxError) as error:  # the former before pytest 9
        raise UsageError(f"read --test {text!r}", f"it is no expression: {error}") from error
    found = []
    for each in kept:
        name = f"{short_name(each.story.test)} {each.story.test}".lower()
        if expression.evaluate(lambda word, /, name=name, **_: word.lower() in name):
            found.append(each)
    return found


def _only(chosen: Sequence[Kept], connection: int) -> Kept:
    """The story, of one connection alone."""
    if len(chosen) > 1:
        why = f"of which of the {len(chosen)} stories? --test says it"
        raise UsageError(f"tell connection {connection}", why)
    (kept,) = chosen
    found = tuple(each for each in kept.story.connections if each.number == connection)
    if not found:
        numbers = ", ".join(str(each.number) for each in kept.story.connections) or "none"
        raise UsageError(f"tell connection {connection}", f"the story's connections are: {numbers}")
    return replace(kept, story=replace(kept.story, connections=found, others=()))


def _print_json(chosen: Sequence[Kept]) -> None:
    from testbed.runs.codec import encoded

    stories = [{"number": kept.number, **json.loads(encoded(kept.story))} for kept in chosen]
    typer.echo(json.dumps(stories, indent=1))


def _print(story: Story, console: Console) -> None:
    """Its verdict, what it failed for, and its connections as sequence diagrams."""
    from testbed.observe.sequence import draw_story
    from testbed.report.results import short_name
    from testbed.report.shown import shown

    style = "bold red" if story.verdict in _FAILED else "bold"
    console.print(
        shown(f"{story.verdict} {short_name(story.test)}"), style=style, markup=False, soft_wrap=True
    )
    lines = [story.title, *(f"    {line}" for line in story.message.splitlines())]
    drawn = draw_story(story, console.width)
    typer.echo(shown("\n".join([*filter(None, lines), "", drawn, ""])))


def _list(run: Run, chosen: Sequence[Kept], asked: str, console: Console) -> None:
    """One story a line: its number, verdict, name, and how many connections it tells of."""
    from rich.text import Text

    from testbed.report.results import short_name
    from testbed.report.shown import shown

    console.print(Text(shown(f"{run.info.started}  {run.info.under_test}"), "dim"), soft_wrap=True)
    for kept in chosen:
        told = kept.story
        count = len(told.connections)
        line = Text.assemble(
            f"{kept.number:>4}  ",
            (f"{told.verdict:<7}", "bold red" if told.verdict in _FAILED else ""),
            shown(f"  {short_name(told.test)}"),
            (f"  {count} connection{'' if count == 1 else 's'}", "dim"),
        )
        console.print(line, soft_wrap=True)
    console.print(f"\n{command(f'story {asked} --test N')} tells one of them", style="dim", soft_wrap=True)


def _write_packets(run: Run, chosen: Sequence[Kept], file: Path) -> None:
    """One after the other: a pcapng file is made of sections, each of which says what it holds."""
    from testbed.report.outputs import write_output

    packets = [data for kept in chosen if (data := run.packets(kept.number)) is not None]
    if not packets:
        raise UsageError(f"write {file}", "no packets were kept with the stories chosen")
    write_output(file, b"".join(packets))
    size = sum(map(len, packets))
    typer.echo(f"{file}: the packets of {len(packets)} of {len(chosen)} stories, {size} bytes")
