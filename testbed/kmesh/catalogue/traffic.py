"""What is sent over the connections of a scenario. Each asserts that it arrives whole."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence

from testbed.kmesh.catalogue.stage import Stage, is_listener
from testbed.lab.pair import Connection
from testbed.lab.payload import difference
from testbed.lab.wait import DEADLINE_S

_BULK = bytes(range(256)) * 4096  # 1 MiB
_SMALL_WRITES = [b"%d," % number for number in range(50)]
_SENDS = [b"GET / HTTP/1.1\r\n", b"Host: server\r\n", b"\r\n"]
_PART = 64 * 1024


class Talk:
    """A connection, and what is yet to be written ahead of its first payload."""

    def __init__(self, connection: Connection, metadata: bytes = b"") -> None:
        self.client = connection.client
        self.server = connection.server
        self.tuple = connection.tuple
        self._metadata = metadata

    def say(self, *parts: bytes) -> None:
        """The client sends, each part by itself; the server reads it, behind the metadata if that is due."""
        expected, self._metadata = self._metadata + b"".join(parts), b""
        if is_listener(self.server):
            for part in parts:
                self.client.sendall(part)  # nobody will read it
        else:
            deliver(self.client, self.server, parts, expected)

    def answer(self, *parts: bytes) -> None:
        """The server sends, the client reads it."""
        deliver(self.server, self.client, parts, b"".join(parts))


def deliver(sender: socket.socket, receiver: socket.socket, parts: Sequence[bytes], expected: bytes) -> None:
    """Sends and receives by turns, as much as goes without blocking; nothing else may arrive."""
    left = [memoryview(part)[at : at + _PART] for part in parts for at in range(0, len(part), _PART)]
    got = bytearray()
    sender.setblocking(False)
    try:
        while left or len(got) < len(expected):
            if not left:
                got += _read(receiver, len(expected) - len(got))
            elif (sent := _written(sender, left[0])) < len(left[0]):
                left[0] = left[0][sent:]
                got += _read(receiver, _PART)  # its buffers are full: so there is something
            else:
                left.pop(0)
    finally:
        sender.settimeout(DEADLINE_S)
    assert not (told := difference(bytes(got), expected)), told
    assert not _is_readable(receiver), "more arrived than was sent"


def receive(receiver: socket.socket, expected: bytes) -> None:
    """Reads what has been sent, and asserts that it is that and nothing else."""
    got = bytearray()
    while len(got) < len(expected):
        got += _read(receiver, len(expected) - len(got))
    assert not (told := difference(bytes(got), expected)), told
    assert not _is_readable(receiver), "more arrived than was sent"


def _written(sock: socket.socket, data: memoryview) -> int:
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0


def _read(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size)
    assert data, "the connection ended before all had arrived"
    return data


def _is_readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def nothing(_stage: Stage, _talks: Sequence[Talk]) -> None:
    """No data; or what there is was in the SYN."""


def one_byte(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        talk.say(b"x")


def bulk(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        talk.say(_BULK)
        talk.answer(_BULK)


def small(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        talk.say(*_SMALL_WRITES)
        talk.answer(*_SMALL_WRITES)


def several(_stage: Stage, talks: Sequence[Talk]) -> None:
    """Of several sends only the first has the metadata ahead, and no answer has."""
    for talk in talks:
        for part in _SENDS:
            talk.say(part)
        talk.answer(b"HTTP/1.1 200 OK\r\n\r\n")
