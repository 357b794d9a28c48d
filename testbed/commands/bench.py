"""`testbed bench`: what programs cost, and whether one of two sets costs more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from testbed.commands.options import InnerMaps, TailCalls, console
from testbed.errors import UsageError

if TYPE_CHECKING:
    from testbed.lab.family import Family

EPILOG = (
    "Examples:  [bold]sudo testbed bench[/]  ·  "
    "[bold]sudo testbed bench --object old/sockops.o --object new/sockops.o[/]  ·  "
    "[bold]sudo testbed bench --object old/ --object sockops.o,cgroup_sock.o[/]\n\n"
    "The exit code is 1 when a later set is worse than the first, beyond the noise and --threshold."
)
Objects = Annotated[
    list[str] | None,
    typer.Option(
        "--object",
        metavar="FILE[,FILE…]|DIR",
        help="A set to measure; later ones are held against the first. Without any: the programs in bpf/.",
    ),
]
Connections = Annotated[
    int,
    typer.Option(
        "--connections",
        metavar="N",
        min=1,
        max=4096,
        help="Of each set in each round, in whole batches of 32.",
    ),
]
Rounds = Annotated[int, typer.Option("--rounds", metavar="N", min=8, max=10_000, help="Of each kind.")]
Passes = Annotated[
    int,
    typer.Option(
        "--passes",
        metavar="N",
        min=1,
        max=100,
        help="That share them: each loads all anew.",
    ),
]
Threshold = Annotated[
    float,
    typer.Option("--threshold", metavar="PERCENT", min=0, help="How much worse is a regression."),
]
InFamily = Annotated[str, typer.Option("--family", metavar="F", help="v4, v6, mapped or mapped-client.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the order within each round.")]
Abi = Annotated[
    str, typer.Option("--abi", metavar="ERA|FILE", help="The objects' ABI, if not as recognised.")
]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON too, round by round.")
]


def bench(
    objects: Objects = None,
    connections: Connections = 64,
    rounds: Rounds = 64,
    passes: Passes = 8,
    threshold: Threshold = 10.0,
    family: InFamily = "v4",
    seed: Seed = 1,
    abi: Abi = "",
    tail_calls: TailCalls = None,
    inner_maps: InnerMaps = None,
    json_file: Json = None,
) -> None:
    """Measure what programs cost: time a run, instructions, connections a second; compare sets.

    Each --object is a set of its own: a file, several with commas between, or a directory of objects.
    """
    from testbed.bpf.elf.loader import LoadOptions
    from testbed.bpf.elf.words import parse_inner_map, parse_tail_call
    from testbed.cost.contender import parse_contenders
    from testbed.cost.report import bench_report
    from testbed.cost.result import Request
    from testbed.kernel.privileges import need_root
    from testbed.report.outputs import need_writable, write_output

    if not objects:
        for option, given in (("--abi", abi), ("--tail-call", tail_calls), ("--inner-map", inner_maps)):
            if given:
                raise UsageError(f"use {option}", "it is about objects, and --object names none")
    options = LoadOptions(
        tail_calls=tuple(map(parse_tail_call, tail_calls or ())),
        inner_maps=dict(map(parse_inner_map, inner_maps or ())),
    )
    specs = parse_contenders(objects or ())
    request = Request(connections, rounds, passes, _family(family), threshold / 100, seed)
    if json_file is not None:
        need_writable(json_file)
    need_root("measure programs")
    code, text = bench_report(specs, abi, options, request, console())
    if json_file is not None:
        write_output(json_file, text)
    raise typer.Exit(code)


def _family(name: str) -> Family:
    from testbed.lab.family import Family

    try:
        return Family(name)
    except ValueError as error:
        names = ", ".join(each.value for each in Family)
        raise UsageError("read --family", f"{name!r} is no family: choose one of {names}") from error
