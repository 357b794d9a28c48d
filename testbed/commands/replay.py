"""`testbed replay`."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from testbed.capsule.guest import Output, Run

EPILOG = (
    "Examples:  [bold]sudo testbed replay failed.capsule.zip[/]"
    "  ·  [bold]sudo testbed replay failed.capsule.zip --here[/]"
    "  ·  [bold]testbed replay failed.capsule.zip --kernel 6.1 --times 50[/]"
    "  ·  [bold]sudo testbed replay failed.capsule.zip --test test_mine.py[/]     "
    "Exit codes: 0 none failed, 1 some failed, 2 usage, a bad file or not agreed to, 3 nothing could run."
)


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A capsule.", show_default=False)],
    times: Annotated[int, typer.Option("--times", metavar="N", min=1, help="How often to run it.")] = 100,
    kernel: Annotated[
        str, typer.Option("--kernel", metavar="V", help="In a guest of this kernel; needs no root.")
    ] = "",
    yes: Annotated[
        bool, typer.Option("--yes", help="Load what the capsule carries into the kernel, without asking.")
    ] = False,
    family: Annotated[
        str, typer.Option("--family", metavar="F", help="In this family, instead of its own.")
    ] = "",
    test: Annotated[
        Path | None,
        typer.Option("--test", metavar="FILE", help="The file of the test, where it is somebody's own."),
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Test bpf/ of this checkout: is it mended? Nothing is asked.")
    ] = False,
    objects: Annotated[
        list[Path] | None,
        typer.Option("--object", metavar="FILE", help="Test this object instead; once for each."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object instead.")] = False,
) -> None:
    """Run the scenario of a capsule again, many times, and print how often it fails.

    What is in the capsule is shown first. It asks before it loads objects, or sources that differ from
    this testbed's, into the kernel; it runs nothing else of what a capsule carries. With --here or
    --object, it runs none of it.
    """
    from testbed.capsule.contents import read_capsule
    from testbed.capsule.guest import run_in_guest
    from testbed.capsule.replay import Request, prepare, print_capsule, print_outcome, run_here
    from testbed.capsule.unpack import Instead
    from testbed.kernel.privileges import need_root

    console = Console(highlight=False)
    told = Console(stderr=True, highlight=False) if as_json else console
    instead = Instead(here, tuple(objects or ()))
    request = Request(times, family, test, yes, instead)
    capsule = read_capsule(file)
    if not kernel:
        need_root("replay a scenario")
    if not as_json:
        print_capsule(capsule, instead, told)
    wanted = prepare(capsule, request, told, lambda words: typer.confirm(words, err=True))
    if kernel:
        with told.status(f"in a guest of Linux {kernel}"):
            outcome = run_in_guest(capsule, request, _in_guest(kernel))
    else:
        uname = platform.uname()
        outcome = run_here(capsule, wanted, request, told, f"Linux {uname.release} {uname.machine}")
    print_outcome(outcome, capsule, instead, console, as_json=as_json)
    raise typer.Exit(outcome.exit_code)


def _in_guest(kernel: str) -> Run:
    """Runs words in a guest of that kernel. A guest that does not last is an error in one message."""
    from testbed.errors import TestbedError
    from testbed.guest.command import GuestEnded
    from testbed.matrix.bisect import in_guests

    def run(files: Mapping[str, bytes], words: Sequence[str], output: Output) -> int:
        try:
            return in_guests(files)(kernel, words, output)
        except GuestEnded as ended:
            raise TestbedError("replay it in the guest", str(ended), "", ended.report.console) from ended

    return run
