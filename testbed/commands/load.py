"""`testbed load`: what the verifier says of objects; with --connections, a set under pressure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from testbed.commands.options import InnerMaps, TailCalls
from testbed.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from testbed.bpf.elf.loader import LoadOptions
    from testbed.lab.family import Family
    from testbed.pressure.result import Request

EPILOG = (
    "Examples:  [bold]sudo testbed load sockops.o sendmsg.o[/]  ·  "
    "[bold]sudo testbed load xdp.o --inner-map outer=array:4:64:1 --tail-call calls:0=parse[/]  ·  "
    "[bold]sudo testbed load --connections 100000 --concurrency 64[/]"
)
_RINGS = ("observe", "auth_requests", "log")
_OPEN = 64
_MOST_OPEN = 10_000  # each slice has twice as many, on one port: a client has 64,512 of its own


def _pressure(metavar: str | None, about: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=about, rich_help_panel="Under pressure", **more)


Objects = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="OBJECT",
        help="ELF objects; with --connections, the programs in bpf/ where none is named.",
        show_default=False,
    ),
]
MoreObjects = Annotated[
    list[Path] | None, typer.Option("--object", metavar="FILE", help="The same as OBJECT; once for each.")
]
Programs = Annotated[
    list[str] | None, typer.Option("--program", metavar="P", help="Load only this program; once for each.")
]
Skip = Annotated[
    list[str] | None, typer.Option("--skip", metavar="P", help="Leave this program out; once for each.")
]
Log = Annotated[
    bool, typer.Option("--log", help="Keep the verifier's whole log of every program, and name the file.")
]
MaxEntries = Annotated[
    list[str] | None,
    typer.Option("--max-entries", metavar="MAP=N", help="A map's size (a ring's: bytes); once for each."),
]
Connections = Annotated[
    int | None, _pressure("N", "Make N connections through the programs, and as many without.", min=1)
]
Concurrency = Annotated[int, _pressure("C", "Connections open at a time.", min=1, max=_MOST_OPEN)]
InFamily = Annotated[str, _pressure("F", "v4, v6, mapped or mapped-client.")]
Stall = Annotated[bool, _pressure(None, "Read no ring until all is over.", "--stall")]
StallOnly = Annotated[
    list[str] | None, _pressure("RING", f"Do not read this ring: {', '.join(_RINGS)}; once for each.")
]
Full = Annotated[list[str] | None, _pressure("MAP", "Fill a map with foreign entries first; once for each.")]
Verdicts = Annotated[bool, _pressure(None, "Write a verdict for each request.", "--verdicts")]
Waypoint = Annotated[bool, _pressure(None, "Every client goes by a waypoint.", "--waypoint")]
Abi = Annotated[str, _pressure("ERA|FILE", "The objects' ABI, if not as recognised.")]
Json = Annotated[Path | None, _pressure("FILE", "Write the result as JSON.", "--json")]


def load(
    objects: Objects = None,
    more_objects: MoreObjects = None,
    programs: Programs = None,
    skip: Skip = None,
    log: Log = False,
    tail_calls: TailCalls = None,
    inner_maps: InnerMaps = None,
    max_entries: MaxEntries = None,
    connections: Connections = None,
    concurrency: Concurrency = _OPEN,
    family: InFamily = "v4",
    stall: Stall = False,
    stall_only: StallOnly = None,
    full: Full = None,
    verdicts: Verdicts = False,
    waypoint: Waypoint = False,
    abi: Abi = "",
    json_file: Json = None,
) -> None:
    """Load ELF objects and say what the verifier says of each program.

    With --connections: put them, or the programs in bpf/, under pressure.
    """
    from testbed.bpf.elf.loader import LoadOptions
    from testbed.bpf.elf.words import parse_inner_map, parse_max_entries, parse_tail_call

    paths = [*(objects or ()), *(more_objects or ())]
    options = LoadOptions(
        only=tuple(programs or ()),
        skip=tuple(skip or ()),
        tail_calls=tuple(map(parse_tail_call, tail_calls or ())),
        inner_maps=dict(map(parse_inner_map, inner_maps or ())),
        max_entries=dict(map(parse_max_entries, max_entries or ())),
    )
    if connections is None:
        _only_under_pressure(
            concurrency=concurrency != _OPEN,
            family=family != "v4",
            stall=stall,
            stall_only=stall_only,
            full=full,
            verdicts=verdicts,
            waypoint=waypoint,
            abi=abi,
            json=json_file,
        )
        raise typer.Exit(_load(paths, options, log))
    if log:
        raise UsageError(
            "use --log", "it is about the verifier, not about pressure", "leave --connections out"
        )
    request = _request(connections, concurrency, family, full or [], options, verdicts, waypoint)
    request = replace(request, stalled=_stalled(stall, stall_only or []))
    raise typer.Exit(_press(paths, options, request, abi, json_file))


def _only_under_pressure(**given: object) -> None:
    """`UsageError` for the first option that was given."""
    for name, value in given.items():
        if value:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"use {option}", "it is about pressure, and --connections asks for none")


def _load(paths: Sequence[Path], options: LoadOptions, log: bool) -> ExitCode:
    from testbed.kernel.privileges import need_root
    from testbed.report.load import load_report

    if not paths:
        fix = "name some, or put bpf/ under pressure: --connections N"
        raise UsageError("load objects", "none is named", fix)
    need_root("load the objects")
    return load_report(paths, options, Console(highlight=False), log)


def _request(
    connections: int,
    concurrency: int,
    family: str,
    full: Sequence[str],
    options: LoadOptions,
    verdicts: bool,
    waypoint: bool,
) -> Request:
    from testbed.pressure.result import Request

    return Request(
        connections,
        concurrency,
        _family(family),
        full=tuple(dict.fromkeys(full)),
        max_entries=options.max_entries,
        verdicts=verdicts,
        waypoint=waypoint,
    )


def _press(
    paths: Sequence[Path], options: LoadOptions, request: Request, abi: str, json_file: Path | None
) -> ExitCode:
    from testbed.kernel.privileges import need_root
    from testbed.pressure.report import pressure_report
    from testbed.pressure.subject import load_pressed
    from testbed.report.outputs import need_writable, write_output

    if json_file is not None:
        need_writable(json_file)
    need_root("put programs under pressure")
    console = Console(highlight=False)
    with load_pressed(paths, abi, options) as pressed:
        for heading, words in pressed.lines:
            console.print(Text.assemble((f"{heading:<10}", "bold"), words), soft_wrap=True)
        code, text = pressure_report(pressed, request, console)
    if json_file is not None:
        write_output(json_file, text)
    return code


def _family(name: str) -> Family:
    from testbed.lab.family import Family

    try:
        return Family(name)
    except ValueError as error:
        names = ", ".join(each.value for each in Family)
        raise UsageError("read --family", f"{name!r} is no family: choose one of {names}") from error


def _stalled(everything: bool, only: Sequence[str]) -> frozenset[str]:
    for name in only:
        if name not in _RINGS:
            raise UsageError("read --stall-only", f"{name!r} is none of {', '.join(_RINGS)}")
    return frozenset((*_RINGS, "access_log") if everything else only)
