"""Commands that look at a lab: `watch`, `capture`, `maps`, and `inspect` of a lab."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from testbed.commands.lab_hosts import LabOption
from testbed.commands.labs import AsJson
from testbed.errors import ExitCode, TestbedError

if TYPE_CHECKING:
    from testbed.keeper.client import Client
    from testbed.observe.capture import Frame

WATCH_EPILOG = (
    "Examples:  [bold]sudo testbed watch[/]  ·  [bold]sudo testbed watch --for 5 server[/]  ·  "
    "[bold]sudo testbed watch --json | jq -r .text[/]"
)
CAPTURE_EPILOG = (
    "Examples:  [bold]sudo testbed capture client[/]  ·  "
    "[bold]sudo testbed capture client:eth0 -w out.pcapng --count 100[/]\n\n"
    "The exit code is 1 when packets were lost."
)
MAPS_EPILOG = (
    "Examples:  [bold]sudo testbed maps[/]  ·  [bold]sudo testbed maps managed[/]  ·  "
    "[bold]sudo testbed maps --json[/]"
)
Hosts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[HOST…]", help="Only what these hosts do.", show_default=False),
]
Seconds = Annotated[float | None, typer.Option("--for", metavar="S", min=0, help="End after S seconds.")]


def watch(hosts: Hosts = None, seconds: Seconds = None, as_json: AsJson = False, lab: LabOption = "") -> None:
    """Show what happens, as it happens: callbacks, packets, records, changes of maps. Ctrl-C ends it."""
    from testbed.keeper.client import Client
    from testbed.keeper.protocol import Watch
    from testbed.keeper.words import need_root

    need_root("watch a lab")
    with Client(lab) as client, _until_interrupted():
        value, _ = client.subscribe(Watch(hosts=hosts or []))
        typer.echo(f"testbed: watching {client.record.name}", err=True)
        for message in _messages(client, seconds):
            for event in message.get("events", ()):
                print_line(
                    json.dumps(event, ensure_ascii=False) if as_json else line_of(event, value["start_ns"])
                )
            if "note" in message:
                typer.echo(f"testbed: {message['note']}", err=True)
            sys.stdout.flush()


def _messages(client: Client, seconds: float | None) -> Iterator[dict[str, Any]]:
    end = None if seconds is None else time.monotonic() + seconds
    while (message := client.next_message(None if end is None else end - time.monotonic())) is not None:
        if "dropped" in message:
            raise TestbedError(f"watch {client.record.name} on", message["dropped"])
        if "down" in message:
            typer.echo(f"testbed: the lab {client.record.name} was taken down", err=True)
            return
        yield message


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C is how it is ended; and who reads our output may stop reading."""
    try:
        yield
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def line_of(event: dict[str, Any], start_ns: int) -> str:
    """An event in a line: µs since ``start_ns``, who, what kind, what, and which connection."""
    time_us = (event["time_ns"] - start_ns) / 1000
    who = event["host"] or "–"
    if event["to"]:
        who = f"{who} → {event['to']}"
    about = event["connection"]
    told = event["text"] if not about or about in event["text"] else f"{event['text']}  {about}"
    return f"{time_us:>12.1f} µs  {event['kind']:<8}  {who:<17}  {told}"


def capture(
    where: Annotated[
        str, typer.Argument(metavar="HOST[:IF]", help="An interface; eth0 where none is named.")
    ],
    file: Annotated[
        Path | None, typer.Option("-w", metavar="FILE", help="Write a pcapng file instead.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="End after N packets.")
    ] = None,
    lab: LabOption = "",
) -> None:
    """Capture the packets of an interface, both ways. Ctrl-C ends it."""
    from testbed.keeper.client import Client
    from testbed.keeper.protocol import Packets
    from testbed.keeper.words import need_root

    need_root("capture packets")
    if file is not None:
        from testbed.report.outputs import need_writable

        need_writable(file)
    host, _, interface = where.partition(":")
    with Client(lab) as client:
        value, link = client.subscribe(Packets(host=host, interface=interface or "eth0"))
        typer.echo(f"testbed: capturing {link} of {client.record.name}", err=True)
        taken = _Taken(client, count)
        with _until_interrupted():
            if file is None:
                _print_frames(taken, value["start_ns"])
            else:
                from testbed.observe.pcapng import write_pcapng

                write_pcapng(file, taken, {}, time.time_ns() - time.monotonic_ns(), [link])
    typer.echo(f"testbed: {taken.count} packets, {taken.lost} lost", err=True)
    if taken.lost:
        raise typer.Exit(ExitCode.FAILED)


class _Taken:
    """The frames as they come, until there are enough or somebody interrupts."""

    def __init__(self, client: Client, most: int | None) -> None:
        self.count = 0
        self.lost = 0
        self._client = client
        self._most = most

    def __iter__(self) -> Iterator[Frame]:
        try:
            yield from self._frames()
        except KeyboardInterrupt:
            return

    def _frames(self) -> Iterator[Frame]:
        from testbed.observe.capture import Frame

        for message in _messages(self._client, None):
            self.lost += message.get("lost", 0)
            for time_ns, sender, receiver, length, data in message.get("frames", ()):
                self.count += 1
                yield Frame(time_ns, 0, sender, receiver, base64.b64decode(data), length)
                if self.count == self._most:
                    return


def _print_frames(frames: _Taken, start_ns: int) -> None:
    from testbed.observe.segments import decode_frame

    for frame in frames:
        time_us = (frame.time_ns - start_ns) / 1000
        told = decode_frame(frame.data, frame.length)
        print_line(f"{time_us:>12.1f} µs  {frame.sender} → {frame.receiver}  {told}")
        sys.stdout.flush()


def maps(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A map, or what it is to the contract.")] = "",
    as_json: AsJson = False,
    lab: LabOption = "",
) -> None:
    """List the maps of the programs at work, or show what is in one."""
    from testbed.keeper.client import Client
    from testbed.keeper.protocol import Maps
    from testbed.keeper.text import map_lines, shown, table
    from testbed.keeper.words import need_root

    need_root("look at maps")
    with Client(lab) as client:
        found = client.ask(Maps(name=name))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif name:
        for line in (line for each in found for line in map_lines(each)):
            typer.echo(line)
    else:
        heads = ("name", "role", "type", "id", "key", "value", "max", "entries", "at")
        keys = ("name", "role", "type", "id", "key_size", "value_size", "max_entries", "entries", "where")
        for line in table([heads, *([shown(each[key]) for key in keys] for each in found)]):
            typer.echo(line)


def is_lab(names: list[Path]) -> bool:
    """Whether what `inspect` is given is the name of a lab; else it is for files.

    `UsageError` for a name that is neither's. `MachineError` without root, where there may be labs.
    """
    from testbed.keeper.registry import folder, survey
    from testbed.keeper.words import is_name, need_root, unknown

    if len(names) != 1 or names[0].exists() or not is_name(name := str(names[0])):
        return False
    if folder().exists():
        need_root(f"look for the lab {name}")
    labs = [record.name for record in survey(remove=False)[0]]
    if name in labs:
        return True
    raise unknown(f"inspect {name}", "it is neither a file nor a lab that is up", name, labs, "labs")


def inspect_lab(name: str, as_json: bool) -> None:
    """Everything of a lab but what is in its maps."""
    from testbed.keeper.client import Client
    from testbed.keeper.protocol import Inspect
    from testbed.keeper.text import inspected

    with Client(name) as client:
        about = client.ask(Inspect())
    if as_json:
        typer.echo(json.dumps(about, indent=2, ensure_ascii=False))
        return
    for line in inspected(about):
        typer.echo(line)
