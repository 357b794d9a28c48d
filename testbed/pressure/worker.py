"""The process that connects or accepts, as fast as it can, on the host that it was born on.

One for the clients and one for the server, each a bare interpreter (``-I -S``) of one thread. Both
keep their sockets in order: a client that has as many open as it may closes its oldest one before
the next connect(); the server closes its oldest one when that has been closed by its client, so
that it is always the client that closes first, by a FIN.

The server may lag behind: a client goes on only when it is no further ahead than twice as many
connections as may be open (64 at least). So the accept queue never overflows.

Messages are JSON in SOCK_SEQPACKET packets: on descriptor 0 with the testbed, on descriptor 1 with
the other worker. Times are CLOCK_MONOTONIC in nanoseconds, which all processes share.
"""

from __future__ import annotations

import errno
import json
import resource
import select
import socket
import sys
import time
from collections import Counter, deque
from typing import Any

PACKET = 128 * 1024
LAG = 64  # connections, at least
_CREDIT = b"."
_END = b"end"


def lag(concurrency: int) -> int:
    """How many connections one credit of the server stands for."""
    return max(concurrency, LAG)


def files(concurrency: int) -> int:
    """How many files a worker has open at most. The server lags behind, which takes none."""
    return concurrency + 64


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, f"errno {error.errno}")


def _hear(peer: socket.socket) -> bytes:
    """The next message of the other worker. Ends this one, quietly, when that is gone."""
    try:
        data = peer.recv(PACKET)
    except ConnectionError:
        data = b""
    if not data:
        sys.exit(0)
    return data


def _tell(peer: socket.socket, data: bytes) -> None:
    """Sends a message to the other worker. Ends this one, quietly, when that is gone."""
    try:
        peer.send(data)
    except ConnectionError:
        sys.exit(0)


class _Client:
    """Connects. ``storage`` is a map by sockets to fill before each connect(), where asked for."""

    def __init__(self, peer: socket.socket, storage_fd: int) -> None:
        self._peer = peer
        self._storage_fd = storage_fd

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """Connects ``count`` times and closes all. Returns how many were opened, errors, times."""
        address = (order["address"], json.loads(_hear(self._peer)))
        family, concurrency = order["family"], order["concurrency"]
        prepare = self._preparation(bytes.fromhex(order["storage"]), address[1], order["port_at"])
        held: deque[socket.socket] = deque()
        errors: Counter[str] = Counter()
        opened, granted, credit = 0, 2 * lag(concurrency), lag(concurrency)
        start = time.monotonic_ns()
        for _ in range(order["count"]):
            if opened >= granted:
                _hear(self._peer)
                granted += credit
            if len(held) >= concurrency:
                held.popleft().close()
            sock = socket.socket(family)
            try:
                if prepare is not None:
                    prepare(sock.fileno())
                sock.connect(address)
            except OSError as error:
                errors[_name(error)] += 1
                sock.close()
                continue
            opened += 1
            held.append(sock)
        while held:
            held.popleft().close()
        end = time.monotonic_ns()
        _tell(self._peer, json.dumps(opened).encode())
        while _hear(self._peer) != _END:
            continue  # credits that were not needed
        return {"done": opened, "errors": errors, "start": start, "end": end}

    def _preparation(self, value: bytes, port: int, port_at: int) -> Any:
        """What writes a socket's storage, None where there is nothing to write."""
        if not value:
            return None
        from testbed.bpf.libbpf import map_update

        if port_at >= 0:  # in network order, as a connect hook has it
            value = value[:port_at] + port.to_bytes(2, "big") + value[port_at + 2 :]
        return lambda fd: map_update(self._storage_fd, fd.to_bytes(4, "little"), value)


class _Server:
    """Accepts."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """Accepts until the client has told how many there are. Returns how many, errors, times.

        On a port of its own each time, which the kernel chooses. ``ports`` are those of the clients,
        as they came, so many as were asked for.
        """
        concurrency = order["concurrency"]
        with socket.socket(order["family"]) as listener:
            if order["family"] == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("", 0))
            listener.listen(4 * lag(concurrency))
            listener.setblocking(False)
            _tell(self._peer, json.dumps(listener.getsockname()[1]).encode())
            start = time.monotonic_ns()
            result = self._accept(listener, concurrency, order["ports"])
        return {**result, "start": start, "end": time.monotonic_ns()}

    def _accept(self, listener: socket.socket, concurrency: int, told: int) -> dict[str, Any]:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._peer, select.POLLIN)
        held: deque[socket.socket] = deque()
        ports: list[int] = []
        self._errors: Counter[str] = Counter()
        accepted, closed, credit, total = 0, 0, lag(concurrency), -1
        while total < 0 or accepted < total:
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                for fd, _ in poll.poll():
                    if fd == self._peer.fileno():
                        total = json.loads(_hear(self._peer))
                continue
            accepted += 1
            held.append(sock)
            if accepted <= told:
                ports.append(peer[1])
            if len(held) > concurrency:
                self._close(held.popleft())
                closed += 1
                if closed % credit == 0:
                    _tell(self._peer, _CREDIT)
        while held:
            self._close(held.popleft())
        if total < 0:
            total = json.loads(_hear(self._peer))
        _tell(self._peer, _END)
        return {"done": accepted, "errors": self._errors, "ports": ports}

    def _close(self, sock: socket.socket) -> None:
        """Closes a connection when its client has."""
        try:
            if sock.recv(1):
                self._errors["data"] += 1
        except OSError as error:
            self._errors[_name(error)] += 1
        sock.close()


def main(role: str) -> None:
    """Answers orders until the testbed's end of descriptor 0 closes."""
    control, peer = socket.socket(fileno=0), socket.socket(fileno=1)
    data, fds, _, _ = socket.recv_fds(control, PACKET, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, json.loads(data)), hard))
    worker: _Client | _Server = _Client(peer, fds[0] if fds else -1) if role == "client" else _Server(peer)
    while data := control.recv(PACKET):
        control.send(json.dumps(worker.run(json.loads(data))).encode())


if __name__ == "__main__":
    main(sys.argv[1])
