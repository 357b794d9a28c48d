"""`testbed check`: the contract on the programs in bpf/, or on compiled objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from testbed.commands.matrix import Modules
from testbed.commands.options import InnerMaps, TailCalls, console
from testbed.errors import UsageError

EPILOG = (
    "Examples:  [bold]sudo testbed check[/]  ·  [bold]sudo testbed check -k 'close and not reset'[/]"
    "  ·  [bold]sudo testbed check --quick[/]  ·  [bold]testbed check --list[/]"
    "  ·  [bold]sudo testbed check -n 2 --junit out.xml[/]"
    "  ·  [bold]sudo testbed check --object sockops.o --object cgroup_sock.o[/]"
)


def _telling(metavar: str | None, about: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=about, rich_help_panel="What is told of failures")


Families = Annotated[
    str, typer.Option("--family", metavar="F[,F…]", help="Families to connect in; all four otherwise.")
]
Expression = Annotated[
    str, typer.Option("-k", metavar="EXPR", help="Only scenarios whose names match, as in pytest.")
]
Workers = Annotated[
    str, typer.Option("-n", metavar="N", help="Processes to share the work, or [bold]auto[/].")
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="Each scenario in one family, not in each of them: a few seconds."),
]
ListOnly = Annotated[
    bool, typer.Option("--list", help="One scenario a line; nothing is run, root is not needed.")
]
Junit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write the verdicts as JUnit XML too.")
]
Objects = Annotated[
    list[Path] | None,
    typer.Option("--object", metavar="FILE", help="A compiled object to check; once for each."),
]
Abi = Annotated[
    str, typer.Option("--abi", metavar="ERA|FILE", help="The objects' ABI, if not as recognised.")
]
Stories = Annotated[
    Path | None,
    typer.Option("--stories", metavar="FILE", help="Write what happened, to compare with another run."),
]
InGuest = Annotated[
    str, typer.Option("--kernel", metavar="V|FILE", help="In a guest of this kernel; needs no root.")
]
Record = Annotated[
    str,
    _telling("WHAT", "Whose stories are kept: [bold]failures[/], all, or off: none is recorded.", "--record"),
]
RunFolder = Annotated[
    Path | None, _telling("DIR", "Where the stories are kept, instead of among the last runs.", "--run")
]
CapsuleFolder = Annotated[
    Path | None,
    _telling("DIR", "Write a capsule of every failure there, not of the new ones alone.", "--capsule"),
]
Hold = Annotated[bool, _telling(None, "Leave the lab of the first failure up, and end.", "--hold-on-fail")]


def check(
    family: Families = "v4,v6,mapped,mapped-client",
    expression: Expression = "",
    workers: Workers = "0",
    quick: Quick = False,
    list_only: ListOnly = False,
    junit: Junit = None,
    objects: Objects = None,
    abi: Abi = "",
    tail_calls: TailCalls = None,
    inner_maps: InnerMaps = None,
    stories: Stories = None,
    kernel: InGuest = "",
    modules: Modules = None,
    record: Record = "failures",
    run: RunFolder = None,
    capsule: CapsuleFolder = None,
    hold: Hold = False,
) -> None:
    """Run the contract's scenarios and print a table of verdicts.

    Under test are the programs in bpf/, or compiled objects: --object sockops.o --object sendmsg.o
    """
    from testbed.check import Request, run_check

    request = Request(
        family,
        expression,
        workers,
        list_only,
        junit,
        objects=tuple(objects or ()),
        abi=abi,
        tail_calls=tuple(tail_calls or ()),
        inner_maps=tuple(inner_maps or ()),
        stories=stories,
        record=record,
        run=run,
        capsule=capsule,
        hold=hold,
        quick=quick,
    )
    if kernel:
        from testbed.matrix.check import check_in_guest

        raise typer.Exit(check_in_guest(request, kernel, modules, console()))
    if modules is not None:
        raise UsageError("use --modules", "it is about a guest's kernel, and --kernel names none")
    raise typer.Exit(run_check(request, console()))
