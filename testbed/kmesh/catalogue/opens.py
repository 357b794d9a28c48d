"""Ways to open a connection by ordinary means.

Each returns the connections that came to be, and has asserted that they did so in the way that is
meant, or that none did for the reason that is meant.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

from testbed.kmesh.catalogue.stage import Stage, await_connected, bind, fails_with, port_of
from testbed.lab.pair import Connection
from testbed.lab.sockets import reset_on_close

AT_ONCE = 4
_SO_BINDTODEVICE = 25  # Python has it from 3.12 on


def plain(stage: Stage) -> list[Connection]:
    with stage.listen() as listener:
        return [stage.connect(listener)]


def non_blocking(stage: Stage) -> list[Connection]:
    sock = stage.client_socket()
    with stage.listen() as listener:
        stage.begin_connect(sock, listener)
        await_connected(sock)
        return [Connection(sock, stage.accept(listener))]


def _refuse(stage: Stage, sock: socket.socket) -> int:
    """Connects to a port where nobody listens any more; returns it."""
    with stage.listen() as listener:
        port = port_of(listener)
    fails_with(
        errno.ECONNREFUSED,
        "connect() to a port without a listener",
        lambda: stage.client.connect(stage.server_address, port, sock=sock),
    )
    return port


def refused(stage: Stage) -> list[Connection]:
    with stage.client_socket() as sock:
        _refuse(stage, sock)
    return []


def retried(stage: Stage) -> list[Connection]:
    sock = stage.client_socket()
    with stage.listen(_refuse(stage, sock)) as listener:
        return [stage.connect(listener, sock)]


def not_accepted(stage: Stage) -> list[Connection]:
    """The listener stands for the server's socket, which only the kernel has."""
    listener, sock = stage.listen(), stage.client_socket()
    stage.client.connect(stage.server_address, port_of(listener), sock=sock)
    return [Connection(sock, listener)]


def many(stage: Stage) -> list[Connection]:
    with stage.listen() as listener:
        clients = [stage.client_socket() for _ in range(AT_ONCE)]
        for client in clients:
            stage.begin_connect(client, listener)
        for client in clients:
            await_connected(client)
        servers = [stage.accept(listener) for _ in clients]
    by_port = {server.getpeername()[1]: server for server in servers}
    return [Connection(client, by_port[port_of(client)]) for client in clients]


def same_ports(stage: Stage) -> list[Connection]:
    """The first connection is reset, so that nothing is left of it; the next has the same four numbers."""
    with stage.listen() as listener:
        sock = stage.client_socket()
        bind(sock, stage.client_address)
        first = stage.connect(listener, sock)
        reset_on_close(sock)
        first.close()
        again = stage.client_socket()
        bind(again, first.tuple.src, first.tuple.sport)
        second = stage.connect(listener, again)
    assert second.tuple == first.tuple
    return [second]


def two_addresses(stage: Stage) -> list[Connection]:
    """One connection from each; only the first address was there when hosts were made managed."""
    interface = next(
        each for each in stage.client.ends[0].addresses if each.version == stage.pair.family.version
    )
    second = ipaddress.ip_interface(f"{interface.ip + 8}/{interface.network.prefixlen}")
    stage.client.add_address(second)
    made = []
    with stage.listen() as listener:
        for address in (interface.ip, second.ip):
            sock = stage.client_socket()
            bind(sock, address)
            made.append(stage.connect(listener, sock))
            assert made[-1].tuple.src == address
    return made


def bound_to_device(stage: Stage) -> list[Connection]:
    sock = stage.client_socket()
    sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, stage.client.ends[0].name.encode() + b"\0")
    with stage.listen() as listener:
        connection = stage.connect(listener, sock)
    assert stage.kernels_word(stage.client, sock).interface == stage.client.ends[0].index
    return [connection]
