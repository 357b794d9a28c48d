"""A waypoint at work on a host: it takes the metadata off each connection and forwards what follows."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from socket import AF_UNIX, SOCK_SEQPACKET, socketpair
from socket import socket as Socket
from typing import Any

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.errors import TestbedError, UsageError
from testbed.kmesh.records import Destination
from testbed.lab.command import COMMAND_DEADLINE_S, Command
from testbed.lab.family import ConnTuple, unmapped
from testbed.lab.host import Host

_START = (
    "import sys; sys.path.append(sys.argv[1]);"
    " from testbed.kmesh.forwarder import main; main(int(sys.argv[2]))"
)


@dataclass(frozen=True)
class Forwarded:
    """One connection of a waypoint's.

    ``client`` is the connection that came (client → waypoint), ``metadata`` what was read first (empty
    where it was malformed), ``destination`` what that says, ``onward`` the waypoint's own connection to
    there. ``sent`` and ``received`` are the bytes forwarded to the server and back, None until it has
    ended. ``error`` says why it was not forwarded, ``reset`` by which errno it ended where that was no
    ordinary close.
    """

    client: ConnTuple
    metadata: bytes = b""
    destination: Destination | None = None
    onward: ConnTuple | None = None
    sent: int | None = None
    received: int | None = None
    error: str = ""
    reset: str = ""


class Waypoint(Closing):
    """A process on a host that accepts connections as Kmesh's waypoint does. Ready when it is made.

    Connections that begin with no metadata, or with other metadata than the contract's, are reset; so
    are those that cannot be forwarded. A reset of one side is one of the other, and a half close a half
    close.
    """

    def __init__(self, host: Host, port: int = 0) -> None:
        """Port 0: the kernel chooses. `UsageError` when it cannot listen there."""
        self.host = host
        with ExitStack() as stack:
            self._told = stack.enter_context(_Text("told"))
            self._stderr = stack.enter_context(_Text("stderr"))
            self._control, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
            acquired("socket", self._control.fileno())
            acquired("socket", theirs.fileno())
            stack.enter_context(self._control)
            with theirs:
                self._process = self._start(theirs, port)
            stack.enter_context(self._process)
            self.port = self._await_ready(port)
            stack.callback(self._end)
            self._undo = stack.pop_all()

    def __repr__(self) -> str:
        return f"<Waypoint {self.host.name}:{self.port} {len(self.connections)} connections {self.errors}>"

    def _start(self, theirs: Socket, port: int) -> Command:
        package = Path(__file__).resolve().parents[2]
        return self.host.spawn(
            [sys.executable, "-I", "-S", "-c", _START, str(package), str(port)],
            stdin=theirs.fileno(),
            stdout=self._told.fd,
            stderr=self._stderr.fd,
        )

    def _await_ready(self, port: int) -> int:
        what = f"start a waypoint on {self.host.name}"
        self._control.settimeout(COMMAND_DEADLINE_S)
        try:
            answer = self._control.recv(4096)
        except TimeoutError as error:
            raise TestbedError(what, f"it is not ready after {COMMAND_DEADLINE_S:g} s") from error
        if not answer:
            raise TestbedError(what, f"it ended with {self._process.wait()}", details=self._stderr.text)
        ready = json.loads(answer)
        if "error" in ready:
            raise UsageError(f"{what}, port {port}", ready["error"])
        return int(ready["port"])

    def at(self, version: int) -> Destination:
        """Where it listens: its host's first address of an IP version (4 or 6), and the port."""
        return self.host.address(version), self.port

    @property
    def connections(self) -> list[Forwarded]:
        """Its connections in the order in which they came. Each is told before its first byte is forwarded.

        So it is there when the server has read anything, and when a client sees its reset.
        """
        found: dict[int, Forwarded] = {}
        for line in self._lines():
            number, before = line["number"], found.get(line["number"])
            found[number] = _begun(line) if before is None else _ended(before, line)
        return [found[number] for number in sorted(found)]

    @property
    def errors(self) -> list[str]:
        """What it could not forward, and why; with whatever it wrote to stderr behind."""
        failed = [f"{each.client}: {each.error}" for each in self.connections if each.error]
        return failed + self._stderr.text.splitlines()

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Whole ones: it may be writing one."""
        *lines, _ = self._told.text.split("\n")
        return map(json.loads, lines)

    def _end(self) -> None:
        """It has ended with its host where that is gone."""
        self._control.close()
        if not self.host.is_gone and (code := self._process.wait()) != 0:
            raise TestbedError(
                f"end the waypoint on {self.host.name}",
                f"it had ended with {code} already",
                details=self._stderr.text,
            )

    def close(self) -> None:
        """Ends it, and its connections. What it forwarded can still be read."""
        self._undo.close()


class _Text(Closing):
    """What a process writes to a file in memory; closed, it is still there to read."""

    def __init__(self, name: str) -> None:
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
        acquired("memory", self.fd)
        self._last: str | None = None

    @property
    def text(self) -> str:
        if self._last is not None:
            return self._last
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0).decode(errors="replace")

    def close(self) -> None:
        if self._last is None:
            self._last = self.text
            os.close(self.fd)


def _connection(local: list[Any], remote: list[Any]) -> ConnTuple:
    return ConnTuple(unmapped(local[0]), local[1], unmapped(remote[0]), remote[1])


def _begun(line: dict[str, Any]) -> Forwarded:
    made = Forwarded(_connection(line["client"], line["local"]), error=line.get("error", ""))
    if "destination" not in line:
        return made
    address, port = line["destination"]
    made = replace(made, metadata=bytes.fromhex(line["metadata"]), destination=(unmapped(address), port))
    if "onward" not in line:
        return made
    return replace(made, onward=_connection(line["onward"], line["destination"]))


def _ended(before: Forwarded, line: dict[str, Any]) -> Forwarded:
    return replace(before, sent=line["sent"], received=line["received"], reset=line.get("reset", ""))
