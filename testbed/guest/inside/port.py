"""The guest's end of the line: a serial port, on which messages are lines of JSON behind a nonce.

The nonce is the host's, new for each guest that it starts or restores: what else may have been
written to the port is told apart by it.
"""

from __future__ import annotations

import json
import os
import tty
from typing import Any

_PORT = "/dev/ttyS1"
_READ = 65536


class Port:
    """Sends and receives messages. Not for more than one thread."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._fd = os.open(_PORT, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        tty.setraw(self._fd)
        self._rest = b""

    def send(self, **message: Any) -> None:
        """Sends a message; returns when the port has taken it."""
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
        data = f"{self._nonce} {text}\n".encode(errors="replace")  # bytes of a file's name that are no UTF-8
        while data:
            data = data[os.write(self._fd, data) :]

    def receive(self) -> dict[str, Any]:
        """Waits for the next message. One that brings a ``nonce`` changes it from then on."""
        while b"\n" not in self._rest:
            self._rest += os.read(self._fd, _READ)
        line, _, self._rest = self._rest.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        self._nonce = message.pop("nonce", self._nonce)
        return message
