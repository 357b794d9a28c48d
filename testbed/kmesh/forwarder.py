"""The process of a waypoint: takes the metadata off each connection and forwards it to where that says.

Started with a bare interpreter, it needs nothing but the standard library. Its stdin is a socket: the
port that it listens on is sent there, and when the other end closes, it ends. What it does it tells
on stdout, a line of JSON each; see `testbed.kmesh.waypoint`.
"""

import errno
import json
import os
import select
import socket
import struct
import sys
import threading
from typing import Any

_CHUNK = 64 * 1024
_ORIGINAL_DESTINATION, _END = 0x01, 0xFE
_FAMILIES = {6: (socket.AF_INET, 4), 18: (socket.AF_INET6, 16)}
_TOLD = threading.Lock()


class Malformed(Exception):
    """Not the metadata that a waypoint is sent."""


def read_metadata(client: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """Reads ``01 | be32 length | address | be16 port | fe | be32 0``, and no byte more.

    Returns it, and the address and port in it. `Malformed` says what is in its place.
    """
    head = _exactly(client, b"", 1)
    if head[0] != _ORIGINAL_DESTINATION:
        raise Malformed(f"it begins with {head[0]:02x}, not 01")
    head = _exactly(client, head, 4)
    length = int.from_bytes(head[1:], "big")
    if length not in _FAMILIES:
        raise Malformed(f"its length is {length}, not 6 (IPv4) or 18 (IPv6)")
    family, size = _FAMILIES[length]
    whole = _exactly(client, head, length + 5)
    if whole[-5:] != bytes([_END, 0, 0, 0, 0]):
        raise Malformed(f"it ends with {whole[-5:].hex()}, not fe00000000")
    value = whole[5:]
    destination = socket.inet_ntop(family, value[:size]), int.from_bytes(value[size : size + 2], "big")
    return whole, destination


def _exactly(client: socket.socket, before: bytes, size: int) -> bytes:
    data = client.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise Malformed(
            f"the connection ended after {len(before + data)} bytes of it: {(before + data).hex()}"
        )
    return before + data


class Way:
    """One direction of a connection. What was read is written before more is read."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.data = b""
        self.has_ended = False
        self.count = 0

    @property
    def reads(self) -> bool:
        return not self.has_ended and not self.data

    def read(self) -> None:
        """The end of it closes half of the other connection."""
        self.data = self.source.recv(_CHUNK)
        if not self.data:
            self.has_ended = True
            self.sink.shutdown(socket.SHUT_WR)

    def write(self) -> None:
        sent = self.sink.send(self.data)
        self.data = self.data[sent:]
        self.count += sent


def forward(out: Way, back: Way) -> None:
    """Both ways of a connection, until both have ended. `OSError` when either side was reset."""
    sides = {out.source.fileno(): (out, back), back.source.fileno(): (back, out)}
    while not (out.has_ended and back.has_ended):
        poll = select.poll()
        for fd, (comes, goes) in sides.items():
            if comes.data and not goes.data:
                continue  # what is next on this side waits for what has come
            poll.register(fd, comes.reads * select.POLLIN | bool(goes.data) * select.POLLOUT)
        for fd, happened in poll.poll():
            comes, goes = sides[fd]
            if goes.data:
                goes.write()
            if comes.reads and happened & ~select.POLLOUT:
                comes.read()
            elif happened & (select.POLLERR | select.POLLHUP) and not goes.data:
                code = comes.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                raise OSError(code or errno.ECONNRESET, os.strerror(code or errno.ECONNRESET))


def reset(sock: socket.socket) -> None:
    """Closes with a RST (SO_LINGER of 0 seconds)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def tell(**what: Any) -> None:
    """A line on stdout, at once and whole."""
    with _TOLD:
        os.write(1, json.dumps(what).encode() + b"\n")


def serve(number: int, client: socket.socket) -> None:
    """One connection, from its metadata to its end."""
    about: dict[str, Any] = {"number": number, "client": client.getpeername(), "local": client.getsockname()}
    try:
        metadata, destination = read_metadata(client)
    except (Malformed, OSError) as error:
        # told before the RST: who sees that one can read of it
        tell(**about, error=f"malformed metadata: {error}")
        reset(client)
        return
    about.update(metadata=metadata.hex(), destination=destination)
    server = socket.socket(socket.AF_INET6 if ":" in destination[0] else socket.AF_INET)
    try:
        server.connect(destination)
    except OSError as error:
        server.close()
        tell(**about, error=f"connect to {destination[0]} port {destination[1]}: {error.strerror}")
        reset(client)
        return
    tell(**about, onward=server.getsockname())
    _forward(number, client, server)


def _forward(number: int, client: socket.socket, server: socket.socket) -> None:
    for sock in (client, server):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    out, back = Way(client, server), Way(server, client)
    try:
        forward(out, back)
    except OSError as error:
        tell(
            number=number,
            sent=out.count,
            received=back.count,
            reset=errno.errorcode.get(error.errno or 0, ""),
        )
        reset(client)
        reset(server)
    else:
        tell(number=number, sent=out.count, received=back.count)
        client.close()
        server.close()


def accept(listener: socket.socket) -> None:
    """Serves each client in a thread of its own."""
    number = 0
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(number, client), daemon=True).start()
        number += 1


def main(port: int) -> None:
    """Listens on every address, IPv4 and IPv6, until the other end of stdin closes. Port 0: any."""
    with socket.socket(fileno=os.dup(0)) as control, socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            listener.bind(("", port))
            listener.listen(128)
        except OSError as error:
            control.send(json.dumps({"error": error.strerror}).encode())
            return
        control.send(json.dumps({"port": listener.getsockname()[1]}).encode())
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        control.recv(1)
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
