"""What tests do to plain sockets."""

from __future__ import annotations

import _socket
import socket
import struct
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from testbed.lab.host import Host

_AT_ONCE = 64  # sockets that a broker hands over in a message
_family = _socket.socket.family.__get__
_kind = _socket.socket.type.__get__
_protocol = _socket.socket.proto.__get__


def supply(host: Host, count: int, family: int = socket.AF_INET) -> Generator[socket.socket, None, None]:
    """Yields so many TCP sockets of a host, for connections by the thousand: the next are made meanwhile.

    Each belongs to whoever took it; those that nobody takes are closed when the iterator is.
    """
    with ThreadPoolExecutor(1) as ahead:
        sizes = [min(_AT_ONCE, count - start) for start in range(0, count, _AT_ONCE)]
        ordered = ahead.submit(host.sockets, sizes[0], family) if sizes else None
        for size in [*sizes[1:], 0]:
            if ordered is None:
                return
            made = ordered.result()
            ordered = ahead.submit(host.sockets, size, family) if size else None
            try:
                made.reverse()
                while made:
                    yield made.pop()
            except GeneratorExit:
                made += ordered.result() if ordered else []
                raise
            finally:
                for each in made:
                    each.close()


def accept(listener: socket.socket) -> tuple[socket.socket, Any]:
    """As its accept(), at hardly more than the price of the system call.

    Python's makes two enums of numbers, only to give them to the socket that it makes; and behind a listener
    with a timeout it has that block, as it does already: a tenth of what a connection takes.
    """
    if type(listener) is not socket.socket:
        return listener.accept()  # somebody takes down its calls
    fd, address = listener._accept()  # type: ignore[attr-defined]
    return socket.socket(_family(listener), _kind(listener), _protocol(listener), fd), address


def reset_on_close(sock: socket.socket) -> None:
    """Its close() will send a RST in place of a FIN (SO_LINGER of 0 seconds, socket(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset(sock: socket.socket) -> None:
    """Closes with a RST in place of a FIN."""
    reset_on_close(sock)
    sock.close()
