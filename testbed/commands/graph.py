"""`testbed graph`: the picture of a topology, or of a lab that is up."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from testbed.errors import UsageError

if TYPE_CHECKING:
    from testbed.topology.model import Topology

EPILOG = (
    "Examples:  [bold]testbed graph pair[/]  ·  [bold]testbed graph routed.yaml --format svg -o routed.svg[/]"
    "  ·  [bold]sudo testbed graph mylab[/]"
)
_NARROWEST, _PIPED = 40, 100


class Format(StrEnum):
    """What a picture is written as."""

    TEXT = "text"
    MERMAID = "mermaid"
    SVG = "svg"


What = Annotated[
    str,
    typer.Argument(
        metavar="FILE|NAME|LAB", help="A file, a shipped topology, or a lab that is up.", show_default=False
    ),
]
AsFormat = Annotated[Format, typer.Option("--format", help="Box characters, a Mermaid flowchart, or SVG.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write it there, not to the terminal.")
]


def graph(what: What, as_format: AsFormat = Format.TEXT, output: Output = None) -> None:
    """Draw a topology: its hosts, their addresses, and the links between them."""
    picture = _draw(_topology(what), as_format, to_terminal=output is None) + "\n"
    if output is None:
        sys.stdout.write(picture)
        return
    from testbed.report.outputs import write_output

    write_output(output, picture)


def _draw(topology: Topology, as_format: Format, to_terminal: bool) -> str:
    from testbed.graph.mermaid import draw_mermaid
    from testbed.graph.svg import draw_svg
    from testbed.graph.text import draw_text

    match as_format:
        case Format.MERMAID:
            return draw_mermaid(topology)
        case Format.SVG:
            return draw_svg(topology)
        case Format.TEXT:
            return draw_text(topology, width=_width() if to_terminal else _PIPED)


def _width() -> int:
    """The terminal's columns; COLUMNS wins, as it does elsewhere."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal():
        return max(int(told), _NARROWEST)
    return max(os.get_terminal_size().columns, _NARROWEST) if sys.stdout.isatty() else _PIPED


def _topology(what: str) -> Topology:
    """A file's or a shipped one's, else that of a lab. `UsageError` when it is none of them."""
    from testbed.keeper.words import is_name
    from testbed.topology.load import load_topology, topology_file

    if topology_file(what).exists() or not is_name(what):
        return load_topology(what)
    if os.geteuid() == 0:
        from testbed.keeper.registry import living

        if living(what) is not None:
            return _of_lab(what)
    try:
        return load_topology(what)
    except UsageError as error:
        raise UsageError(
            error.what, f"{error.why}; nor is there a lab that is up", _fix(error.fix)
        ) from error


def _fix(shipped: str) -> str:
    from testbed.keeper.registry import survey

    if os.geteuid() != 0:
        return f"{shipped}; labs are root's: with sudo, one that is up is drawn"
    labs = ", ".join(record.name for record in survey()[0])
    return f"{shipped}; labs: {labs or 'none'}"


def _of_lab(name: str) -> Topology:
    """As it is now: whoever is managed by now is marked."""
    from testbed.keeper.client import Client
    from testbed.keeper.protocol import Inspect
    from testbed.topology.model import Topology

    with Client(name) as client:
        found = client.ask(Inspect())
    topology = Topology.model_validate(found["topology_as_dict"])
    managed = {each["name"] for each in found["hosts"] if each["managed"]}
    hosts = {
        name: host.model_copy(update={"managed": name in managed}) for name, host in topology.hosts.items()
    }
    return topology.model_copy(update={"hosts": hosts})
