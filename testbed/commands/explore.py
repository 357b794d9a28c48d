"""`testbed explore`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from testbed.commands.options import InnerMaps, TailCalls

EPILOG = (
    "Examples:  [bold]sudo testbed explore[/]  ·  [bold]sudo testbed explore --seconds 600[/]"
    "  ·  [bold]sudo testbed explore --seed 1234[/]"
    "  ·  [bold]sudo testbed explore --object sockops.o --object cgroup_sock.o[/]"
)


def explore(
    seconds: Annotated[float, typer.Option("--seconds", metavar="N", min=0, help="How long to go on.")] = 60,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="S", help="Run the programs of this seed; a random one otherwise."),
    ] = None,
    objects: Annotated[
        list[Path] | None,
        typer.Option("--object", metavar="FILE", help="A compiled object to check; once for each."),
    ] = None,
    abi: Annotated[
        str, typer.Option("--abi", metavar="ERA|FILE", help="The objects' ABI, if not as recognised.")
    ] = "",
    tail_calls: TailCalls = None,
    inner_maps: InnerMaps = None,
    family: Annotated[
        str, typer.Option("--family", metavar="F[,F…]", help="Families to connect in; all of them otherwise.")
    ] = "v4,v6,mapped,mapped-client",
) -> None:
    """Run random programs of what hosts do, and hold each step against the contract.

    Hosts enrol and are removed, connect, accept, send and close in every way, while settings change,
    verdicts come and nobody reads the rings. A program that fails is shrunk to the shortest one, and
    printed as a test. The same seed runs the same programs.
    """
    from testbed.errors import UsageError
    from testbed.kernel.privileges import need_root
    from testbed.kmesh.explore.command import Request, run_explore
    from testbed.lab.family import Family
    from testbed.pytest_plugin import parse_families

    try:
        families = tuple(Family(name) for name in parse_families(family))
    except ValueError as error:
        raise UsageError("read --family", str(error)) from error
    need_root("explore")
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
    request = Request(
        seconds, seed, families, tuple(objects or ()), abi, tuple(tail_calls or ()), tuple(inner_maps or ())
    )
    raise typer.Exit(run_explore(request, Console(highlight=False)))
