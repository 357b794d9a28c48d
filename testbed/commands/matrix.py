"""`testbed matrix`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from testbed.commands.options import InnerMaps, TailCalls
from testbed.errors import UsageError

EPILOG = (
    "Examples:  [bold]testbed matrix[/]  ·  [bold]testbed matrix --kernel 5.10 --kernel 6.12 -k close[/]"
    "  ·  [bold]testbed matrix --all --html matrix.html --junit matrix.xml[/]"
    "  ·  [bold]testbed matrix --object sockops.o --object sendmsg.o[/]"
    "  ·  [bold]testbed matrix --scheduler tcp://build:8786[/]  ·  [bold]testbed matrix --list --json[/]"
)
_PRINTED = Path("-")

Kernels = Annotated[
    list[str] | None,
    typer.Option(
        "--kernel",
        metavar="V|FILE",
        help="A series, an exact version, or a kernel's image; once for each.",
    ),
]
_All = Annotated[bool, typer.Option("--all", help="A kernel of every series that there is.")]
Modules = Annotated[
    Path | None, typer.Option("--modules", metavar="DIR", help="The modules of a kernel that is a file.")
]
Objects = Annotated[
    list[Path] | None,
    typer.Option("--object", metavar="FILE", help="A compiled object to check; once for each."),
]
Abi = Annotated[str, typer.Option("--abi", metavar="ERA", help="The objects' ABI, if not as recognised.")]
InFamilies = Annotated[
    str, typer.Option("--family", metavar="F[,F…]", help="Families to connect in; all of them otherwise.")
]
Expression = Annotated[
    str, typer.Option("-k", metavar="EXPR", help="Only scenarios whose names match, as in pytest.")
]
_Jobs = Annotated[
    int, typer.Option("-j", "--jobs", metavar="N", min=0, help="Guests at a time; else by cores and memory.")
]
_Scheduler = Annotated[
    str, typer.Option("--scheduler", metavar="tcp://HOST:PORT", help="Run on this Dask cluster.")
]
_Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page of it too.")]
_Junit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML too.")]
_Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write JSON too; with --list, print it.")
]
_Full = Annotated[bool, typer.Option("--full", help="Show rows too that are the same on every kernel.")]
_List = Annotated[
    bool, typer.Option("--list", help="One kernel a line, or --json for CI; nothing is run, nor root needed.")
]


class Command(TyperCommand):
    """Takes ``--json`` without a file, where it comes with ``--list``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--list" in args:
            followed = zip(args, [*args[1:], "--"], strict=True)
            args = [
                f"--json={_PRINTED}" if word == "--json" and after.startswith("-") else word
                for word, after in followed
            ]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


def matrix(
    kernels: Kernels = None,
    everything: _All = False,
    modules: Modules = None,
    objects: Objects = None,
    abi: Abi = "",
    tail_calls: TailCalls = None,
    inner_maps: InnerMaps = None,
    family: InFamilies = "",
    expression: Expression = "",
    jobs: _Jobs = 0,
    scheduler: _Scheduler = "",
    html: _Html = None,
    junit: _Junit = None,
    json_file: _Json = None,
    full: _Full = False,
    list_only: _List = False,
) -> None:
    """Boot kernels, run the contract's scenarios in each, and print scenario × kernel.

    Without --kernel: the usual long-term series, and the newest kernel that can be had.
    """
    from testbed.matrix.command import Request, list_kernels, run_matrix
    from testbed.matrix.files import Outputs, step_summary
    from testbed.matrix.request import Subject

    subject = Subject(
        tuple(objects or ()),
        abi,
        tuple(tail_calls or ()),
        tuple(inner_maps or ()),
        family,
        expression,
        modules.resolve() if modules is not None else None,
    )
    outputs = Outputs(html, junit, json_file, step_summary())
    request = Request(tuple(kernels or ()), everything, subject, jobs, scheduler, outputs, full)
    if list_only:
        text = list_kernels(request, as_json=json_file is not None)
        if json_file in {None, _PRINTED}:
            typer.echo(text)
        elif json_file is not None:
            from testbed.report.outputs import write_output

            write_output(json_file, f"{text}\n")
        return
    if json_file == _PRINTED:
        raise UsageError("write --json", "standard output has the table", "name a file")
    raise typer.Exit(run_matrix(request, Console(highlight=False)))
