"""`testbed bisect`."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.console import Console

from testbed.commands.matrix import Abi, Expression, InFamilies, Objects
from testbed.commands.options import InnerMaps, TailCalls
from testbed.commands.vm import With
from testbed.errors import UsageError

EPILOG = (
    "Examples:  [bold]testbed bisect -k closing_deletes --good 5.10 --bad 6.12[/]"
    "  ·  [bold]testbed bisect --good 6.1 --bad 7.2 --with sockops.o --run 'testbed load sockops.o'[/]"
)

_Good = Annotated[str, typer.Option("--good", metavar="V", help="A kernel where it passes.")]
_Bad = Annotated[str, typer.Option("--bad", metavar="V", help="A kernel where it fails; may be the older.")]
_Run = Annotated[
    str,
    typer.Option(
        "--run", metavar="CMD", help="Judge by a command's exit code instead: 0 good, 125 unknown, else bad."
    ),
]


def bisect(
    good: _Good,
    bad: _Bad,
    expression: Expression = "",
    command: _Run = "",
    objects: Objects = None,
    abi: Abi = "",
    tail_calls: TailCalls = None,
    inner_maps: InnerMaps = None,
    family: InFamilies = "",
    files: With = None,
) -> None:
    """Find the first kernel where a scenario changes its verdict.

    It boots kernels between a good and a bad one: to tell the series first, then the packaged version.
    One that cannot be tested is left out, and the nearest to it is tried.
    """
    from testbed.matrix.bisect import Request
    from testbed.matrix.bisect import bisect as run_bisect
    from testbed.matrix.request import Subject

    if bool(expression) == bool(command):
        raise UsageError("bisect", "it takes either scenarios (-k) or a command (--run)")
    given = (abi, tuple(tail_calls or ()), tuple(inner_maps or ()), family)
    subject = Subject(tuple(objects or ()), *given, expression)
    if files and not command:
        raise UsageError("use --with", "it is about a command, and --run names none")
    request = Request(good, bad, subject, tuple(shlex.split(command)), tuple(files or ()))
    raise typer.Exit(run_bisect(request, Console(highlight=False)))
