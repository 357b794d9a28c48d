"""What a scenario has at hand: the two hosts, the program set, and the words of the kernel on both."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass

from testbed.errors import errno_name
from testbed.kernel.sockdiag import TcpSocket, socket_cookie
from testbed.kmesh.abi import Absent
from testbed.kmesh.catalogue.case import Case, Route
from testbed.kmesh.mesh import Mesh
from testbed.lab.family import Address
from testbed.lab.host import Host
from testbed.lab.impatience import Impatience
from testbed.lab.pair import Connection, Pair
from testbed.lab.wait import DEADLINE_S
from testbed.observe.tap import Tap


def fails_with(codes: int | Collection[int], what: str, call: Callable[[], object]) -> None:
    """Asserts that a call fails with that errno, or with one of those."""
    expected = {codes} if isinstance(codes, int) else set(codes)
    seen: object
    try:
        seen = call()
    except OSError as error:
        seen = error
        if error.errno in expected:
            return
    raise AssertionError(f"{what}: {seen!r}, not {' or '.join(map(errno_name, expected))}")


def bind(sock: socket.socket, address: Address | None = None, port: int = 0) -> None:
    """Binds, also an IPv6 socket to an IPv4 address; SO_REUSEADDR lets the port be used again."""
    text = "" if address is None else str(address)
    if sock.family == socket.AF_INET6 and address is not None and address.version == 4:
        text = f"::ffff:{address}"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((text, port))


def is_listener(sock: socket.socket) -> bool:
    """A connection that nobody accepted has its listener in place of the server's socket."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@dataclass(frozen=True)
class Stage:
    """Where a scenario plays. ``undo`` closes what it left open."""

    case: Case
    pair: Pair
    mesh: Mesh
    tap: Tap
    impatience: Callable[[], Impatience]
    undo: ExitStack

    @property
    def client(self) -> Host:
        return self.pair.client

    @property
    def server(self) -> Host:
        return self.pair.server

    @property
    def client_address(self) -> Address:
        return self.client.address(self.pair.family.version)

    @property
    def server_address(self) -> Address:
        return self.server.address(self.pair.family.version)

    def client_socket(self) -> socket.socket:
        """A client's socket, marked for the waypoint where the scenario has one."""
        sock = self.undo.enter_context(self.pair.client_socket())
        if self.case.route is Route.WAYPOINT:
            self.mesh.via_waypoint(sock)
        return sock

    def listen(self, port: int = 0) -> socket.socket:
        """A listener of the server."""
        return self.undo.enter_context(self.server.listen(self.pair.family.listener, port))

    def connect(self, listener: socket.socket, sock: socket.socket | None = None) -> Connection:
        """Connects a client's socket and accepts."""
        return self.undo.enter_context(self.pair.connect(sock or self.client_socket(), listener=listener))

    def accept(self, listener: socket.socket) -> socket.socket:
        server, _ = listener.accept()
        self.undo.enter_context(server)
        server.settimeout(DEADLINE_S)
        return server

    def begin_connect(self, sock: socket.socket, listener: socket.socket) -> None:
        self.client.begin_connect(self.server_address, port_of(listener), sock)

    def sysctl(self, host: Host, **values: int) -> None:
        """Sets what is below ``net/ipv4/`` of a host's namespace. `Absent` where the kernel has none."""
        try:
            host.namespace.sysctl({f"net/ipv4/{name}": str(value) for name, value in values.items()})
        except FileNotFoundError as error:
            raise Absent(f"this kernel has no sysctl {' or '.join(values)} of a namespace") from error

    def destroy(self, host: Host, sock: socket.socket) -> None:
        """SOCK_DESTROY. `Absent` where the kernel has none."""
        try:
            host.destroy(sock)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            raise Absent("this kernel was built without CONFIG_INET_DIAG_DESTROY") from error

    def kernels_word(self, host: Host, sock: socket.socket) -> TcpSocket:
        """What sock_diag says of a socket."""
        cookie = socket_cookie(sock)
        (found,) = (each for each in host.tcp_sockets() if each.cookie == cookie)
        return found


def port_of(sock: socket.socket) -> int:
    """The local port of a socket."""
    port: int = sock.getsockname()[1]
    return port


def await_connected(sock: socket.socket) -> None:
    """Waits until a connect() that was begun has succeeded; the socket blocks again then."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    assert poll.poll(DEADLINE_S * 1000), f"awaited for {DEADLINE_S:g} s: the end of a connect()"
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert code == 0, f"connect(): {errno_name(code)}"
    sock.settimeout(DEADLINE_S)


def await_data(sock: socket.socket) -> None:
    """Waits until something can be read."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    assert poll.poll(DEADLINE_S * 1000), f"awaited for {DEADLINE_S:g} s: data"
