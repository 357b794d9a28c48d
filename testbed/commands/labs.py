"""`testbed up`, `down` and `ls`: labs that stay up."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from testbed.errors import TestbedError, UsageError, command

if TYPE_CHECKING:
    from testbed.topology.model import Topology

UP_EPILOG = (
    "Examples:  [bold]sudo testbed up pair[/]  ·  "
    "[bold]sudo testbed up net.yaml --name mine --object sockops.o[/]  ·  "
    "[bold]sudo testbed up bridge --count pod=4 --program-set none[/]"
)
DOWN_EPILOG = (
    "Examples:  [bold]sudo testbed down[/]  ·  [bold]sudo testbed down pair mine[/]  ·  "
    "[bold]sudo testbed down --all[/]"
)
LS_EPILOG = "Example:  [bold]sudo testbed ls --json | jq -r '.[].name'[/]"
_SETS = ("topology", "reference", "none")
_HOSTS_SHOWN = 16
_NAMES_SHOWN = 4

TopologyName = Annotated[
    str, typer.Argument(metavar="FILE|NAME", help="A topology's file, or the name of a shipped one.")
]
LabName = Annotated[
    str, typer.Option("--name", metavar="N", help="What to call the lab; the topology's name otherwise.")
]
Objects = Annotated[
    list[Path] | None,
    typer.Option("--object", metavar="FILE", help="An ELF object for the whole lab; once for each."),
]
Abi = Annotated[
    str, typer.Option("--abi", metavar="ERA|FILE", help="The objects' ABI, if not as recognised.")
]
ProgramSet = Annotated[
    str,
    typer.Option(
        "--program-set",
        metavar="SET",
        help="[bold]topology[/]: what the topology says, else the programs in bpf/; [bold]reference[/]:"
        " those in any case; [bold]none[/].",
    ),
]
Count = Annotated[
    list[str] | None,
    typer.Option("--count", metavar="HOST=N", help="How many hosts of that name; once for each."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def up(
    topology: TopologyName,
    name: LabName = "",
    objects: Objects = None,
    abi: Abi = "",
    program_set: ProgramSet = "topology",
    count: Count = None,
) -> None:
    """Bring a lab up that stays up, with programs at work in it; `down` takes it down."""
    from testbed.keeper.words import need_root, valid_name

    if program_set not in _SETS:
        raise UsageError("read --program-set", f"{program_set!r} is none of {', '.join(_SETS)}")
    if objects and program_set != "topology":
        raise UsageError("use --program-set", "--object says already what is to be at work")
    if abi and not objects:
        raise UsageError("use --abi", "it is about objects, and --object names none")
    loaded = load(topology, parse_counts(count or []))
    lab = valid_name(name or loaded.name)
    need_root(f"bring up the lab {lab}")
    from testbed.keeper.end import sweep, take_down
    from testbed.keeper.registry import default_lab, living, survey
    from testbed.keeper.setup import Plan
    from testbed.keeper.start import start

    sweep()
    paths = tuple(path.absolute() for path in objects or ())
    for path in paths:
        if not path.is_file():
            raise UsageError(f"load {path}", "there is no such file")
    origin = str(Path(topology).absolute()) if os.sep in topology or "." in topology else topology
    plan = Plan(lab, origin, loaded, paths, abi, program_set)  # type: ignore[arg-type]
    about: dict[str, Any] = {}
    try:
        about.update(start(plan))
        is_only = len(survey(remove=False)[0]) == 1 and default_lab() in {"", lab}
        typer.echo("\n".join(picture(about, is_only=is_only)))
    except KeyboardInterrupt:  # nobody has been told of it yet
        record = living(lab)
        if record is not None and about and record.pid == about["pid"]:
            take_down(record)
        raise


def load(topology: str, counts: dict[str, int]) -> Topology:
    """A topology with other counts. `UsageError` where it has none that could be others."""
    from testbed.topology.load import load_topology, topology_file
    from testbed.topology.positions import read_document

    loaded = load_topology(topology)
    if not counts:
        return loaded
    data: Any = read_document(topology_file(topology).read_text(encoding="utf-8-sig")).data
    hosts = data["hosts"]
    if not any(isinstance(host, dict) and "count" in host for host in hosts.values()):
        raise UsageError(
            f"use --count with {topology}",
            "it is for hosts that have a count, and none of this topology's has one",
            f"its hosts: {', '.join(hosts)}; docs/topologies.md says what a count is",
        )
    return load_topology(topology, counts)


def parse_counts(words: list[str]) -> dict[str, int]:
    """``pods=4``, by the host's name. `UsageError` for what is no such word."""
    counts = {}
    for word in words:
        host, _, number = word.partition("=")
        if not host or not number.isdecimal():
            raise UsageError("read --count", f"{word!r} is not HOST=N, such as pods=4")
        counts[host] = int(number)
    return counts


def picture(about: dict[str, Any], *, is_only: bool = True) -> list[str]:
    """A lab in a few lines, and what to do with it next. ``is_only``: commands need no --lab."""
    lines = [f"{about['name']} is up, of {about['topology']}; process {about['pid']} keeps it"]
    width = max((len(host["name"]) for host in about["hosts"]), default=0)
    for host in about["hosts"][:_HOSTS_SHOWN]:
        addresses = "  ".join(each["address"] for each in host["addresses"]) or "no address"
        managed = "  managed" if host["managed"] else ""
        lines.append(f"  {host['name']:<{width}}  {addresses}{managed}")
    if (more := len(about["hosts"]) - _HOSTS_SHOWN) > 0:
        lines.append(f"  … and {more} more")
    for each in about["programs"]:
        where = "the whole lab" if each["where"] == "lab" else each["where"]
        lines.append(f"  at work in {where}: {each['origin']}")
    if not about["programs"]:
        lines.append("  no program is at work")
    lines += [f"  note: {note}" for note in about["notes"]]
    name, first = about["name"], about["hosts"][0]["name"]
    lab = "" if is_only else f"-l {name} "
    tries = (
        f"shell {lab}{first}",
        f"exec {lab}{first} -- ip address",
        f"watch {lab}".strip(),
        f"inspect {name}",
        f"down {name}",
    )
    lines.append("next:  " + "  ·  ".join(command(each) for each in tries))
    return lines


def down(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every lab that is up.")] = False,
) -> None:
    """Take labs down: their hosts, programs and everything that runs on them."""
    from testbed.keeper.end import sweep, take_down
    from testbed.keeper.registry import choose, survey
    from testbed.keeper.words import need_root

    need_root("take a lab down")
    if everything and names:
        raise UsageError("use --all", "labs are named too: say one or the other")
    for record in sweep():
        typer.echo(_dead(record.name, record.pid))
    how = command("down NAME")
    records = survey(remove=False)[0] if everything else [choose(name, how) for name in names or [""]]
    for record in records:
        take_down(record)
        typer.echo(f"{record.name} is down")
    if not records:
        typer.echo("no lab is up")


def _dead(name: str, pid: int) -> str:
    return f"removed what {name} left: its keeper (process {pid}) is dead"


def ls(as_json: AsJson = False) -> None:
    """List the labs that are up."""
    from testbed.keeper.end import sweep
    from testbed.keeper.registry import survey
    from testbed.keeper.words import need_root

    need_root("list the labs")
    for record in sweep():
        typer.echo(_dead(record.name, record.pid), err=True)
    rows = [_row(record) for record in survey(remove=False)[0]]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo("no lab is up")
        return
    heads = {
        "name": "name",
        "topology": "topology",
        "hosts": "hosts",
        "pid": "pid",
        "up": "up",
        "programs": "programs",
    }
    shown = [heads, *({key: _cell(row[key]) for key in heads} for row in rows)]
    widths = {key: max(len(each[key]) for each in shown) for key in heads}
    for each in shown:
        typer.echo("  ".join(f"{each[key]:<{widths[key]}}" for key in heads).rstrip())


def _cell(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    more = f", … ({len(value)})" if len(value) > _NAMES_SHOWN else ""
    return ", ".join(map(str, value[:_NAMES_SHOWN])) + more


def _row(record: Any) -> dict[str, Any]:
    from testbed.keeper.client import Client
    from testbed.keeper.protocol import About
    from testbed.keeper.words import uptime

    row = {
        "name": record.name,
        "topology": record.topology,
        "hosts": [],
        "pid": record.pid,
        "since": record.since,
        "up": uptime(record.since),
        "programs": [],
    }
    try:
        with Client(record.name) as client:
            about = client.ask(About())
    except TestbedError as error:
        return {**row, "programs": [f"({error.why})"]}
    hosts = [host["name"] for host in about["hosts"]]
    return {**row, "hosts": hosts, "programs": [each["origin"] for each in about["programs"]]}
