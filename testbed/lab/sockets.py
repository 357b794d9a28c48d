"""What tests do to plain sockets."""

from __future__ import annotations

import socket
import struct


def reset_on_close(sock: socket.socket) -> None:
    """Its close() will send a RST in place of a FIN (SO_LINGER of 0 seconds, socket(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset(sock: socket.socket) -> None:
    """Closes with a RST in place of a FIN."""
    reset_on_close(sock)
    sock.close()
