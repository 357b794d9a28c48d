"""Taking who asks the keeper, also when there is no descriptor left: then they are told so."""

from __future__ import annotations

import os
import socket

from testbed.closing import Closing
from testbed.errors import TestbedError, machine_error, ran_out


class Listener(Closing):
    """A listening socket, and a descriptor that is held in reserve for who comes when there is no other."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        """``name`` is the lab's. The socket stays its owner's."""
        sock.setblocking(False)
        self._sock = sock
        self._name = name
        self._reserve = _reserve()

    def fileno(self) -> int:
        """Of the socket; -1 while there is no descriptor for anybody more."""
        return self._sock.fileno() if self._reserve >= 0 else -1

    def accept(self) -> tuple[socket.socket, TestbedError | None] | None:
        """Who asks, and what they are to be told whatever it is that they ask. None where they have gone."""
        try:
            return self._sock.accept()[0], None
        except OSError as error:
            if ran_out(error) is None:
                return None
            refusal = machine_error(f"ask the lab {self._name}", error)
        self.close()
        try:
            return self._sock.accept()[0], refusal
        except OSError:
            self.restore()
            return None

    def restore(self) -> None:
        """Somebody has gone: there may be a descriptor for the reserve again."""
        if self._reserve < 0:
            self._reserve = _reserve()

    def close(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1


def _reserve() -> int:
    try:
        return os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return -1
