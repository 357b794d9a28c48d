"""`testbed mutants`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from testbed.commands.options import InnerMaps, TailCalls

EPILOG = (
    "Examples:  [bold]sudo testbed mutants[/]  ·  [bold]sudo testbed mutants --sample 50 --seed 7[/]"
    "  ·  [bold]sudo testbed mutants --only reversed-auth-tuple[/]  ·  [bold]testbed mutants --list[/]"
    "  ·  [bold]sudo testbed mutants --false-alarms 50[/]"
    "  ·  [bold]sudo testbed mutants --object sockops.o --sample 100[/]"
)

_Source = Annotated[
    Path | None,
    typer.Option("--source", metavar="DIR", help="C sources in the place of bpf/; headers in DIR/include."),
]
_Objects = Annotated[
    list[Path] | None,
    typer.Option("--object", metavar="FILE", help="A compiled object, to change its instructions."),
]
_Abi = Annotated[
    str, typer.Option("--abi", metavar="ERA|FILE", help="The ABI to check, if not as recognised.")
]
_Family = Annotated[
    str, typer.Option("--family", metavar="F[,F…]", help="Families to connect in; all of them otherwise.")
]
_Expression = Annotated[
    str, typer.Option("-k", metavar="EXPR", help="Only scenarios whose names match, as in pytest.")
]
_Sample = Annotated[
    int, typer.Option("--sample", metavar="N", min=0, help="A part: N of the mutants, drawn at random.")
]
_Seed = Annotated[int, typer.Option("--seed", metavar="S", help="Another part; the same for the same S.")]
_Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="ID",
        help="The mutant of this id or name, those of a file, or [bold]hand-picked[/]; once for each.",
    ),
]
_AtOnce = Annotated[
    int, typer.Option("-n", metavar="N", min=0, help="Runs at a time; as many as there are CPUs otherwise.")
]
_All = Annotated[
    bool, typer.Option("--all", help="Every scenario on every mutant, not only until one fails.")
]
_FalseAlarms = Annotated[
    int,
    typer.Option(
        "--false-alarms", metavar="N", min=0, help="Run the unchanged programs N times instead of mutants."
    ),
]
_Target = Annotated[
    float, typer.Option("--target", metavar="PERCENT", min=0, max=100, help="How many are to be killed.")
]
_List = Annotated[bool, typer.Option("--list", help="One mutant a line; nothing is run, root is not needed.")]
_Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write every verdict as JSON too.")
]


def mutants(
    source: _Source = None,
    objects: _Objects = None,
    abi: _Abi = "",
    tail_calls: TailCalls = None,
    inner_maps: InnerMaps = None,
    family: _Family = "",
    expression: _Expression = "",
    sample: _Sample = 0,
    seed: _Seed = 0,
    only: _Only = None,
    at_once: _AtOnce = 0,
    everything: _All = False,
    false_alarms: _FalseAlarms = 0,
    target: _Target = 95.0,
    list_only: _List = False,
    json_file: _Json = None,
) -> None:
    """Change the programs under test, one mistake at a time: do the scenarios catch it?

    Killed are those that a scenario fails on, survived those that none does. Invalid are those that
    do not compile or that the kernel rejects, equivalent those that do the same as the unchanged
    programs. Exit code 0: enough of the others are killed, and each mistake picked by hand.
    """
    from testbed.kernel.privileges import need_root
    from testbed.mutants.measure import Request, measure
    from testbed.report.outputs import need_writable

    if not list_only:
        need_root("run the scenarios on mutants")
    if json_file is not None:
        need_writable(json_file)
    request = Request(
        source=source,
        objects=tuple(objects or ()),
        abi=abi,
        tail_calls=tuple(tail_calls or ()),
        inner_maps=tuple(inner_maps or ()),
        families=family,
        expression=expression,
        only=tuple(only or ()),
        sample=sample,
        seed=seed,
        at_once=at_once,
        everything=everything,
        false_alarms=false_alarms,
        target=target,
        list_only=list_only,
        json_file=json_file,
    )
    raise typer.Exit(measure(request, Console(highlight=False)))
