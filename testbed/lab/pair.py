"""Two hosts, and connections between them: what most tests are about."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from types import TracebackType

from testbed.closing import Closing
from testbed.lab.family import ConnTuple, Family
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.lab.wait import DEADLINE_S


class Connection(Closing):
    """An established connection: both plain sockets, and the tuple that it is known by."""

    def __init__(self, client: socket.socket, server: socket.socket, *, holds: bool = False) -> None:
        """``holds``: a block that fails leaves both sockets open."""
        self.holds = holds
        self.client = client
        self.server = server
        self.tuple = ConnTuple.of_client(client)

    def __repr__(self) -> str:
        return f"<Connection {self.tuple}>"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not self.holds:
            self.close()

    def close(self) -> None:
        """Closes both sockets, the client's first. Closing again is harmless."""
        self.client.close()
        self.server.close()


class Pair:
    """Client and server of a lab, and the family that they connect in unless told otherwise."""

    def __init__(self, lab: Lab, family: Family = Family.V4) -> None:
        self.lab = lab
        self.client: Host = lab["client"]
        self.server: Host = lab["server"]
        self.family = family

    def __repr__(self) -> str:
        return f"<Pair {self.family.value} {self.client!r} {self.server!r}>"

    def client_socket(self) -> socket.socket:
        """An unconnected TCP socket of the client, of the pair's family."""
        return self.client.socket(self.family.client)

    def listen(self) -> socket.socket:
        """A listener of the server, of the pair's family, on a port that the kernel chooses."""
        return self.server.listen(self.family.listener)

    def connect(
        self, sock: socket.socket | None = None, *, listener: socket.socket | None = None
    ) -> Connection:
        """Connects client and server and accepts; returns the connection, established on both sides.

        ``sock`` is a client socket that was prepared, ``listener`` one that is to be kept: by
        default both are made, and the listener is closed once it has accepted.
        """
        with ExitStack() as undo, ExitStack() as done:
            if listener is None:
                listener = done.enter_context(self.listen())
            client = sock or undo.enter_context(self.client_socket())
            self.client.connect(
                self.server.address(self.family.version), listener.getsockname()[1], sock=client
            )
            server, _ = listener.accept()
            undo.callback(server.close)
            server.settimeout(DEADLINE_S)
            connection = Connection(client, server, holds=self.lab.holds)
            undo.pop_all()
        return connection
