"""The command line. It holds no logic of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import testbed
from testbed.commands import bisect as bisect_command
from testbed.commands import explore as explore_command
from testbed.commands import kernels as kernels_command
from testbed.commands import load as load_command
from testbed.commands import matrix as matrix_command
from testbed.commands import mutants as mutants_command
from testbed.commands import vm as vm_command
from testbed.commands.matrix import Modules
from testbed.commands.options import InnerMaps, TailCalls
from testbed.errors import ExitCode, UsageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Checks sockops BPF programs on this kernel: real namespaces, real sockets, real programs.",
    epilog="Examples:  [bold]sudo testbed check[/]  ·  [bold]sudo testbed check --family v6 -k close[/]"
    "  ·  [bold]sudo testbed doctor[/]     Exit codes: 0 all passed, 1 a scenario failed or a program"
    " was rejected, 2 usage or a bad file, 3 the machine cannot run it.",
)


Objects = Annotated[list[Path], typer.Argument(metavar="OBJECT", help="ELF objects.", show_default=False)]


def _console() -> Console:
    return Console(highlight=False)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"testbed {testbed.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:  [bold]sudo testbed check[/]  ·  [bold]sudo testbed check -k 'close and not reset'[/]"
    "  ·  [bold]testbed check --list[/]  ·  [bold]sudo testbed check -n 2 --junit out.xml[/]"
    "  ·  [bold]sudo testbed check --object sockops.o --object cgroup_sock.o[/]"
)
def check(
    family: Annotated[
        str, typer.Option("--family", metavar="F[,F…]", help="Families to connect in; all four otherwise.")
    ] = "v4,v6,mapped,mapped-client",
    expression: Annotated[
        str, typer.Option("-k", metavar="EXPR", help="Only scenarios whose names match, as in pytest.")
    ] = "",
    workers: Annotated[
        str, typer.Option("-n", metavar="N", help="Processes to share the work, or [bold]auto[/].")
    ] = "0",
    list_only: Annotated[
        bool, typer.Option("--list", help="One scenario a line; nothing is run, root is not needed.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write the verdicts as JUnit XML too.")
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
    stories: Annotated[
        Path | None,
        typer.Option("--stories", metavar="FILE", help="Write what happened, to compare with another run."),
    ] = None,
    kernel: Annotated[
        str, typer.Option("--kernel", metavar="V|FILE", help="In a guest of this kernel; needs no root.")
    ] = "",
    modules: Modules = None,
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
    )
    if kernel:
        from testbed.matrix.check import check_in_guest

        raise typer.Exit(check_in_guest(request, kernel, modules, _console()))
    if modules is not None:
        raise UsageError("use --modules", "it is about a guest's kernel, and --kernel names none")
    raise typer.Exit(run_check(request, _console()))


@app.command(epilog="Example:  [bold]testbed build -o build && sudo testbed inspect build/*.o[/]")
def build(
    folder: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where to; made where it does not exist.")
    ],
) -> None:
    """Compile the programs in bpf/ to ELF objects."""
    from testbed.kmesh.reference import build_reference

    for path in build_reference(folder):
        typer.echo(path)


@app.command(epilog="Examples:  [bold]testbed inspect sockops.o[/]  ·  [bold]testbed inspect *.o --json[/]")
def inspect(
    objects: Objects,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects instead.")] = False,
) -> None:
    """Show what is in ELF objects, and what they need of the kernel."""
    from testbed.report.inspect import inspect_objects

    inspect_objects(objects, _console(), as_json)


app.command(epilog=load_command.EPILOG)(load_command.load)
app.command(epilog=explore_command.EPILOG)(explore_command.explore)
app.command(epilog=mutants_command.EPILOG)(mutants_command.mutants)
app.command(epilog=matrix_command.EPILOG, cls=matrix_command.Command)(matrix_command.matrix)
app.command(epilog=bisect_command.EPILOG)(bisect_command.bisect)
app.command(epilog=vm_command.EPILOG)(vm_command.vm)
app.add_typer(kernels_command.app, name="kernels")


@app.command(epilog="Example:  [bold]sudo testbed doctor --json | jq .[].name[/]")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects instead.")] = False,
) -> None:
    """Try each thing that a check needs; say what works, what does not, and what mends it."""
    from testbed.doctor import examine, print_findings

    findings = examine()
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        print_findings(findings, _console())
    if not all(finding.ok for finding in findings):
        raise typer.Exit(ExitCode.CANNOT_RUN)


@app.command()
def gc() -> None:
    """Remove what runs that were killed have left: the cgroups that no living process owns."""
    from testbed.check import need_root
    from testbed.kernel.cgroup import cgroup_root
    from testbed.kernel.ownership import reap

    need_root("remove what dead runs left")
    with cgroup_root() as root:
        reaped = reap(root)
    for each in reaped:
        ended = f", with {len(each.pids)} processes that were still in it" if each.pids else ""
        typer.echo(f"removed the cgroup {each.cgroup}{ended}")
    if not reaped:
        typer.echo("nothing was left behind")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the tests of a checkout, the contract among them. Arguments go to pytest.

    By twice as many processes as there are CPUs, unless -n says otherwise.
    """
    from testbed.check import need_root
    from testbed.data import checkout

    root = checkout()
    if root is None:
        raise UsageError(
            "run the tests", "this testbed is installed without them", "use a checkout: sudo ./tb test"
        )
    need_root("run the tests")
    sys.stdout.flush()
    arguments = [sys.executable, "-m", "pytest", "--rootdir", str(root), "-c", str(root / "pyproject.toml")]
    if not any(word.startswith(("-n", "--numprocesses", "--dist")) for word in context.args):
        arguments += ["-n", str(2 * len(os.sched_getaffinity(0)))]  # most of a test is waiting for others
    os.chdir(root)
    os.execv(sys.executable, [*arguments, *context.args])  # noqa: S606 (a list of words; no shell)
