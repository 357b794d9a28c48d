"""Connections in batches: opened one behind the other, a payload in each, closed in the same order.

By one thread: what a program takes is then time of the connection, and no other core hides it. Sockets
are made before the clock starts, and what user space does with records is not on the clock either.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from contextlib import ExitStack
from pathlib import Path

from testbed.cost.play import Play
from testbed.errors import TestbedError, WaitExpired, errno_name
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.wait import DEADLINE_S, eventually

BATCH = 32  # connections: a ring of one page holds as many requests twice
PAYLOAD = bytes(range(64))
_TIMEOUT = struct.pack("@ll", int(DEADLINE_S) + 1, 0)  # struct timeval
# A TIME_WAIT of each connection for a minute.
_SYSCTLS = {"net/ipv4/ip_local_port_range": "1024 65535", "net/ipv4/tcp_max_tw_buckets": str(1 << 21)}


class Traffic:
    """Between the client and the server of a lab."""

    def __init__(self, lab: Lab, family: Family, play: Play, about: str) -> None:
        """``about`` is what the connections go through, for errors."""
        self._client, self._server = lab["client"], lab["server"]
        self._family = family
        self._play = play
        self._about = about
        self._client.namespace.sysctl(_SYSCTLS)
        self._address = family.as_client(self._server.address(family.version))
        self._in_use = self._sockets()

    def batch(self) -> int:
        """Makes `BATCH` connections. Returns the nanoseconds that connecting and closing took.

        When it returns every callback of theirs has run. `TestbedError` where one fails.
        """
        with ExitStack() as stack:
            try:
                self._play.begin()
                listener = stack.enter_context(self._server.listen(self._family.listener))
                listener.settimeout(None)  # the kernel's own timeout takes no call more each time
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
                clients = self._clients(stack)
                took = self._exchange(listener, clients, stack)
            except OSError as error:
                raise self._failure(error) from error
        self._settle()
        self._play.between()
        return took

    def _clients(self, stack: ExitStack) -> list[socket.socket]:
        clients = self._client.sockets(BATCH, self._family.client)
        for number, sock in enumerate(clients):
            stack.enter_context(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEOUT)
            self._play.prepare(sock, number)
        return clients

    def _exchange(self, listener: socket.socket, clients: list[socket.socket], stack: ExitStack) -> int:
        address = (self._address, listener.getsockname()[1])
        servers: list[socket.socket] = []
        stack.callback(_close_all, servers)
        start = time.perf_counter_ns()
        for client in clients:
            client.connect(address)
            server, _ = listener.accept()
            servers.append(server)
            client.send(PAYLOAD)
        took = time.perf_counter_ns() - start
        self._play.between()
        start = time.perf_counter_ns()
        for client, server in zip(clients, servers, strict=True):
            client.close()
            while server.recv(4096):
                pass
            server.close()
        return took + time.perf_counter_ns() - start

    def _failure(self, error: OSError) -> TestbedError:
        if error.errno == errno.EAGAIN:
            why = f"nothing came within {int(DEADLINE_S) + 1} s"
        else:
            why = errno_name(error.errno) if error.errno else str(error)
        return TestbedError(f"make connections {self._about}", why)

    def _settle(self) -> None:
        """No socket is left of them but TIME_WAITs: the last callbacks have begun by then."""
        try:
            eventually(lambda: self._sockets() <= self._in_use, awaited="every connection to end")
        except WaitExpired as error:
            raise TestbedError(f"close connections {self._about}", str(error).splitlines()[0]) from error

    def _sockets(self) -> int:
        """TCP sockets in both namespaces, without TIME_WAITs (net/ipv4/proc.c)."""
        return sum(_in_use(host.namespace.pid) for host in (self._client, self._server))


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _in_use(pid: int) -> int:
    total = 0
    for file, name in (("sockstat", "TCP:"), ("sockstat6", "TCP6:")):
        for line in (Path("/proc") / str(pid) / "net" / file).read_text(encoding="ascii").splitlines():
            words = line.split()
            if words and words[0] == name:
                total += int(words[2])
    return total
