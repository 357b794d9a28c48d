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
from testbed.commands import bench as bench_command
from testbed.commands import bisect as bisect_command
from testbed.commands import check as check_command
from testbed.commands import explore as explore_command
from testbed.commands import graph as graph_command
from testbed.commands import kernels as kernels_command
from testbed.commands import lab_hosts as lab_hosts_command
from testbed.commands import lab_views as lab_views_command
from testbed.commands import labs as labs_command
from testbed.commands import load as load_command
from testbed.commands import matrix as matrix_command
from testbed.commands import mutants as mutants_command
from testbed.commands import replay as replay_command
from testbed.commands import report as report_command
from testbed.commands import story as story_command
from testbed.commands import topology as topology_command
from testbed.commands import vm as vm_command
from testbed.commands.options import Group
from testbed.errors import ExitCode, UsageError

app = typer.Typer(
    cls=Group,
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


# The panels of --help, in the order of who meets them first.
PROGRAMS, KERNELS, STORIES = "Programs", "Other kernels", "What happened"
LABS, TOPOLOGIES, MACHINE = "Labs that stay up", "Topologies", "This machine"

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


app.command(epilog=check_command.EPILOG, rich_help_panel=PROGRAMS)(check_command.check)


@app.command(
    epilog="Example:  [bold]testbed build -o build && sudo testbed inspect build/*.o[/]",
    rich_help_panel=PROGRAMS,
)
def build(
    folder: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where to; made where it does not exist.")
    ],
) -> None:
    """Compile the programs in bpf/ to ELF objects."""
    from testbed.kmesh.reference import build_reference

    for path in build_reference(folder):
        typer.echo(path)


@app.command(
    epilog="Examples:  [bold]testbed inspect sockops.o[/]  ·  [bold]testbed inspect *.o --json[/]"
    "  ·  [bold]sudo testbed inspect pair[/]",
    rich_help_panel=PROGRAMS,
)
def inspect(
    objects: Objects,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects instead.")] = False,
) -> None:
    """Show what is in ELF objects, and what they need of the kernel; or everything of a lab, by its name."""
    if lab_views_command.is_lab(objects):
        lab_views_command.inspect_lab(str(objects[0]), as_json)
        return
    from testbed.report.inspect import inspect_objects

    inspect_objects(objects, _console(), as_json)


app.command(epilog=load_command.EPILOG, rich_help_panel=PROGRAMS)(load_command.load)
app.command(epilog=bench_command.EPILOG, rich_help_panel=PROGRAMS)(bench_command.bench)
app.command(epilog=explore_command.EPILOG, rich_help_panel=PROGRAMS)(explore_command.explore)
app.command(epilog=mutants_command.EPILOG, rich_help_panel=PROGRAMS)(mutants_command.mutants)
app.command(epilog=matrix_command.EPILOG, cls=matrix_command.Command, rich_help_panel=KERNELS)(
    matrix_command.matrix
)
app.command(epilog=bisect_command.EPILOG, rich_help_panel=KERNELS)(bisect_command.bisect)
app.command(epilog=vm_command.EPILOG, rich_help_panel=KERNELS)(vm_command.vm)
app.command(epilog=story_command.EPILOG, rich_help_panel=STORIES)(story_command.story)
app.command(epilog=report_command.EPILOG, rich_help_panel=STORIES)(report_command.report)
app.command(epilog=replay_command.EPILOG, rich_help_panel=STORIES)(replay_command.replay)
app.command(epilog=labs_command.UP_EPILOG, rich_help_panel=LABS)(labs_command.up)
app.command(epilog=labs_command.DOWN_EPILOG, rich_help_panel=LABS)(labs_command.down)
app.command(epilog=labs_command.LS_EPILOG, rich_help_panel=LABS)(labs_command.ls)
app.command("exec", epilog=lab_hosts_command.EXEC_EPILOG, rich_help_panel=LABS)(lab_hosts_command.execute)
app.command(epilog=lab_hosts_command.SHELL_EPILOG, rich_help_panel=LABS)(lab_hosts_command.shell)
app.command(epilog=lab_hosts_command.MANAGE_EPILOG, rich_help_panel=LABS)(lab_hosts_command.manage)
app.command(epilog=lab_hosts_command.UNMANAGE_EPILOG, rich_help_panel=LABS)(lab_hosts_command.unmanage)
app.command(epilog=lab_hosts_command.IMPAIR_EPILOG, rich_help_panel=LABS)(lab_hosts_command.impair)
app.command(epilog=lab_views_command.WATCH_EPILOG, rich_help_panel=LABS)(lab_views_command.watch)
app.command(epilog=lab_views_command.CAPTURE_EPILOG, rich_help_panel=LABS)(lab_views_command.capture)
app.command(epilog=lab_views_command.MAPS_EPILOG, rich_help_panel=LABS)(lab_views_command.maps)
app.command(epilog=graph_command.EPILOG, rich_help_panel=TOPOLOGIES)(graph_command.graph)
app.command(epilog=topology_command.VALIDATE_EPILOG, rich_help_panel=TOPOLOGIES)(topology_command.validate)
app.command(epilog=topology_command.SCHEMA_EPILOG, rich_help_panel=TOPOLOGIES)(topology_command.schema)
app.add_typer(kernels_command.app, name="kernels", rich_help_panel=KERNELS)


@app.command(epilog="Example:  [bold]sudo testbed doctor --json | jq .[].name[/]", rich_help_panel=MACHINE)
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


@app.command(rich_help_panel=MACHINE)
def gc() -> None:
    """Remove what runs that were killed have left: cgroups, labs and files that no living process owns."""
    from testbed.bpf.elf.kept import tidy_kept
    from testbed.capsule.private import reap_unpacked
    from testbed.keeper.registry import survey
    from testbed.kernel.cgroup import cgroup_root
    from testbed.kernel.ownership import reap
    from testbed.kernel.privileges import LAB, need_root
    from testbed.logs import tidy_logs
    from testbed.runs.folder import tidy
    from testbed.scratch import tidy_scratch

    need_root("remove what dead runs left", LAB)
    _, dead = survey()
    for lab in dead:
        typer.echo(f"removed the lab {lab.name}, whose keeper (process {lab.pid}) is dead")
    unpacked, scratch = reap_unpacked(), tidy_scratch()
    for folder in unpacked:
        typer.echo(f"removed what a replay had unpacked into {folder}")
    for folder in scratch:
        typer.echo(f"removed the temporary files of a dead run in {folder}")
    tidy()
    tidy_kept()
    tidy_logs()
    with cgroup_root() as root:
        reaped = reap(root)
    for each in reaped:
        ended = f", with {len(each.pids)} processes that were still in it" if each.pids else ""
        typer.echo(f"removed the cgroup {each.cgroup}{ended}")
    if not (reaped or dead or unpacked or scratch):
        typer.echo("nothing was left behind")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, rich_help_panel=MACHINE
)
def test(context: typer.Context) -> None:
    """Run the tests of a checkout, the contract among them. Arguments go to pytest.

    By a process more than there are CPUs, with --long by twice as many, unless -n says otherwise.
    """
    from testbed.data import checkout
    from testbed.kernel.privileges import need_root

    root = checkout()
    if root is None:
        raise UsageError(
            "run the tests", "this testbed is installed without them", "use a checkout: sudo ./tb test"
        )
    need_root("run the tests")
    sys.stdout.flush()
    arguments = [sys.executable, "-m", "pytest", "--rootdir", str(root), "-c", str(root / "pyproject.toml")]
    if not any(word.startswith(("-n", "--numprocesses", "--dist")) for word in context.args):
        cpus = len(os.sched_getaffinity(0))
        count = 2 * cpus if "--long" in context.args else cpus + 1  # long ones wait for guests and others
        arguments += ["-n", str(count)]
    os.chdir(root)
    os.execv(sys.executable, [*arguments, *context.args])  # noqa: S606 (a list of words; no shell)
