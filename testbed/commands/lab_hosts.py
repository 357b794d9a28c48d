"""Commands about one host or link of a lab: `exec`, `shell`, `manage`, `unmanage`, `impair`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from testbed.errors import UsageError

EXEC_EPILOG = (
    "Examples:  [bold]sudo testbed exec client -- ip address[/]  ·  "
    "[bold]sudo testbed exec -l pair server -- python3 -m http.server[/]\n\n"
    "The exit code is the command's; 128 and the signal where one ended it."
)
SHELL_EPILOG = "Example:  [bold]sudo testbed shell client[/]"
MANAGE_EPILOG = "Example:  [bold]sudo testbed manage server[/]"
UNMANAGE_EPILOG = "Example:  [bold]sudo testbed unmanage server[/]"
IMPAIR_EPILOG = (
    "Examples:  [bold]sudo testbed impair client-server delay=10ms jitter=2ms loss=1%[/]  ·  "
    "[bold]sudo testbed impair client:eth0 rate=10mbit[/]  ·  "
    "[bold]sudo testbed impair client-server clear[/]"
)

LabOption = Annotated[
    str,
    typer.Option(
        "--lab", "-l", metavar="NAME", help="Which lab; otherwise $TESTBED_LAB, or the only one that is up."
    ),
]
HostName = Annotated[str, typer.Argument(metavar="HOST", help="A host of the lab.")]
Words = Annotated[list[str] | None, typer.Argument(metavar="-- CMD…", show_default=False)]


def execute(host: HostName, words: Words = None, lab: LabOption = "") -> None:
    """Run a command on a host: in its namespace and cgroup, with this terminal."""
    if not words:
        raise UsageError(f"run a command on {host}", "none is given", "such as: exec client -- ip address")
    raise typer.Exit(_run(lab, host, words, {}))


def shell(host: HostName, lab: LabOption = "") -> None:
    """Open a shell on a host; or have one carry out what comes on standard input."""
    program = os.environ.get("SHELL") or "/bin/bash"
    if not os.isatty(0):  # commands come from a file or pipe: there is nobody to be prompted
        raise typer.Exit(_run(lab, host, [program], {}))
    if Path(program).name != "bash":
        raise typer.Exit(_run(lab, host, [program, "-i"], {"PS1": f"{host}$ "}))
    startup = os.memfd_create("bashrc")
    os.set_inheritable(startup, True)
    words = [program, "--rcfile", f"/proc/self/fd/{startup}", "-i"]
    raise typer.Exit(_run(lab, host, words, {}, startup))


_BASHRC = """[ -r ~/.bashrc ] && . ~/.bashrc
PS1="($TESTBED_LAB/$TESTBED_HOST) ${{PS1:-\\\\$ }}"
exec {fd}<&-
"""


def _run(lab: str, host: str, words: list[str], env: dict[str, str], startup: int | None = None) -> int:
    from testbed.keeper.client import Client, has_gone
    from testbed.keeper.enter import KILLED, run_in
    from testbed.keeper.protocol import Enter
    from testbed.keeper.registry import LAB_VARIABLE
    from testbed.keeper.words import need_root

    need_root(f"run a command on {host}")
    with ExitStack() as stack:
        with Client(lab) as client:
            keeper = client.keeper()
            stack.callback(os.close, keeper)
            value, (netns, cgroup) = client.ask_with_fds(Enter(host=host))
            stack.callback(os.close, netns)
            stack.callback(os.close, cgroup)
        if startup is not None:
            os.pwrite(startup, _BASHRC.format(fd=startup).encode(), 0)
        told = {LAB_VARIABLE: value["lab"], "TESTBED_HOST": host}
        code = run_in(netns, cgroup, words, {**os.environ, **told, **env}, keeper)
    if code == KILLED and has_gone(client.record):  # whoever else killed it, that is not ours to say
        from testbed.keeper.end import sweep

        sweep()  # what the command has started, where its keeper was killed
        typer.echo(f"testbed: the lab {client.record.name} went down, and {words[0]} with it", err=True)
    return code


def manage(host: HostName, lab: LabOption = "") -> None:
    """Make the addresses of a host managed, in the map."""
    _manage(host, lab, True)


def unmanage(host: HostName, lab: LabOption = "") -> None:
    """Make the addresses of a host no longer managed."""
    _manage(host, lab, False)


def _manage(host: str, lab: str, on: bool) -> None:
    from testbed.keeper.client import Client
    from testbed.keeper.protocol import Manage
    from testbed.keeper.words import need_root

    need_root(f"{'manage' if on else 'unmanage'} {host}")
    with Client(lab) as client:
        about = client.ask(Manage(host=host, on=on))
    managed = ", ".join(about["managed"])
    typer.echo(f"{host}: managed are {managed}" if managed else f"{host}: none of its addresses is managed")


def impair(
    link: Annotated[
        str, typer.Argument(metavar="LINK", help="client-server: both ways; client:eth0: what it sends.")
    ],
    how: Annotated[list[str] | None, typer.Argument(metavar="NAME=VALUE…|clear", show_default=False)] = None,
    lab: LabOption = "",
) -> None:
    """Have a link delay, lose, reorder or double packets, or be slow (netem), in place of what it did before.

    NAMEs: delay, jitter, loss, reorder, duplicate, rate.
    """
    from testbed.keeper.client import Client
    from testbed.keeper.protocol import Impair
    from testbed.keeper.words import need_root

    need_root(f"impair {link}")
    with Client(lab) as client:
        done = client.ask(Impair(link=link, words=how or []))
    if done["impair"]:
        typer.echo(f"{done['link']}: {done['impair']}, of what {' and '.join(done['from'])} send")
    else:
        typer.echo(f"{done['link']}: no packet is touched any more")
