"""`testbed vm`: a shell, or one command, in a guest of another kernel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from testbed.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from testbed.guest.state import GuestReport

EPILOG = (
    "Examples:  [bold]testbed vm --kernel 6.1[/]  ·  [bold]testbed vm --kernel 5.10 -- uname -r[/]  ·  "
    "[bold]testbed vm --kernel 7 --with test_mine.py -- pytest /root/test_mine.py[/]\n\n"
    "The guest has this Python, this testbed, ip, ss, bpftool and busybox, and no network but its own. "
    "The exit code is the command's; 3 when the guest did not last."
)

KernelName = Annotated[
    str, typer.Option("--kernel", metavar="V", help="A version, a path to a kernel, or host.")
]
Modules = Annotated[
    Path | None, typer.Option("--modules", metavar="DIR", help="The modules of a kernel given by its path.")
]
With = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="PATH", help="Put a file or directory into /root; once for each."),
]
Memory = Annotated[int, typer.Option("--memory", metavar="MIB", min=256, help="The guest's memory.")]
Deadline = Annotated[
    float | None, typer.Option("--deadline", metavar="S", min=1, help="End it after S seconds of silence.")
]
Words = Annotated[list[str] | None, typer.Argument(metavar="[-- CMD…]", show_default=False)]


def vm(
    kernel: KernelName,
    words: Words = None,
    modules: Modules = None,
    files: With = None,
    memory: Memory = 1024,
    deadline: Deadline = None,
) -> None:
    """Boot a kernel and give a shell in it, or run one command. Needs no root."""
    from testbed.guest.files import taken_along

    try:
        code = _run(kernel, words or [], modules, taken_along(files or []), memory, deadline)
    except KeyboardInterrupt:
        sys.stderr.write("testbed: interrupted; the guest is ended\n")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    raise typer.Exit(code)


def _run(
    kernel: str,
    words: list[str],
    modules: Path | None,
    taken: dict[str, bytes],
    memory: int,
    deadline: float | None,
) -> int:
    from rich.console import Console

    from testbed.guest.command import run_command, run_shell
    from testbed.guest.guest import GuestEnded
    from testbed.guest.system import find_system
    from testbed.kernels.find import find_kernels
    from testbed.kernels.progress import shown
    from testbed.matrix.own_objects import own_objects

    console = Console(stderr=True)
    system = find_system(own_objects())
    with shown(console) as progress:
        found = find_kernels([kernel], modules=modules, progress=progress)[0]
    try:
        if words:
            return run_command(found, words, system, files=taken, memory=memory, deadline=deadline)
        return run_shell(found, system, files=taken, memory=memory)
    except GuestEnded as ended:
        _tell(console, ended.report)
        return ExitCode.CANNOT_RUN


def _tell(console: Console, report: GuestReport) -> None:
    """How a guest ended, the last lines of its console, and what to do."""
    from rich.text import Text

    from testbed.guest.state import GuestState

    said = f"testbed: the guest did not last: {report.state}: {report.why}"
    console.print(Text(said), soft_wrap=True)
    for line in report.console.splitlines():
        console.print(Text(f"    {line}", style="dim"), soft_wrap=True)
    advice = (
        "--memory gives the guest more" if report.state is GuestState.OUT_OF_MEMORY else report.state.advice
    )
    console.print(Text(f"  → {advice}"), soft_wrap=True)
