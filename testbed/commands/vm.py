"""`testbed vm`: a shell, or one command, in a guest of another kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testbed.errors import ExitCode, UsageError, errno_name

EPILOG = (
    "Examples:  [bold]testbed vm --kernel 6.1[/]  ·  [bold]testbed vm --kernel 5.10 -- uname -r[/]  ·  "
    "[bold]testbed vm -k 7 --with test_mine.py -- pytest /root/test_mine.py[/]\n\n"
    "The guest has this Python, this testbed, ip, ss, bpftool and busybox, and no network but its own. "
    "The exit code is the command's; 3 when the guest did not last."
)

KernelName = Annotated[
    str, typer.Option("--kernel", "-k", metavar="V", help="A version, a path to a kernel, or host.")
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
    from rich.console import Console

    from testbed.guest.command import run_command, run_shell
    from testbed.guest.guest import GuestEnded
    from testbed.guest.system import find_system
    from testbed.kernels.find import find_kernels
    from testbed.kernels.progress import shown
    from testbed.matrix.own_objects import own_objects

    console = Console(stderr=True)
    taken = taken_along(files or [])
    system = find_system(own_objects())
    with shown(console) as progress:
        found = find_kernels([kernel], modules=modules, progress=progress)[0]
    try:
        if words:
            code = run_command(found, words, system, files=taken, memory=memory, deadline=deadline)
        else:
            code = run_shell(found, system, files=taken, memory=memory)
    except GuestEnded as ended:
        report = ended.report
        console.print(f"testbed: the guest did not last: {report.state}: {report.why}", highlight=False)
        console.print(report.console, style="dim", highlight=False, markup=False)
        raise typer.Exit(ExitCode.CANNOT_RUN) from None
    raise typer.Exit(code)


def taken_along(paths: list[Path]) -> dict[str, bytes]:
    """Files, and those in directories, by their places in the guest. `UsageError` for one that is missing."""
    taken: dict[str, bytes] = {}
    for path in paths:
        try:
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in inside:
                if file.is_file():
                    taken[f"/root/{file.relative_to(path.parent)}"] = file.read_bytes()
            if not path.exists():
                raise UsageError(f"take {path} along", "there is no such file")
        except OSError as error:
            raise UsageError(f"take {path} along", errno_name(error.errno or 0)) from error
    return taken
