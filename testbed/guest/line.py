"""The host's end of the line to a guest's agent: see `testbed.guest.inside.port`."""

from __future__ import annotations

import json
import secrets
import socket
from typing import Any

from testbed.guest.messages import Message, NoMessage, parse_message

_READ = 1 << 16
_LONGEST = 256 << 20  # of a message: what a guest says without end is none


class Line:
    """Messages to and from an agent. What does not begin with our nonce is none, and is left out."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.nonce = secrets.token_hex(8)
        self._rest = b""

    def send(self, **message: Any) -> None:
        """Sends a message, and with it the nonce that answers are to begin with."""
        data = json.dumps({"nonce": self.nonce, **message}, separators=(",", ":"))
        self.socket.sendall(data.encode() + b"\n")

    def take_in(self) -> list[Message | NoMessage] | None:
        """What has come; None when the other end is closed. Not to be called before there is something.

        Behind our nonce all is meant for us: what is no message there is told as such.
        """
        try:
            data = self.socket.recv(_READ)
        except ConnectionError:
            data = b""
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = [message for line in lines if (message := self._parsed(line)) is not None]
        if len(self._rest) > _LONGEST:
            self._rest = b""
            found.append(NoMessage(f"a line of more than {_LONGEST >> 20} MiB"))
        return found

    def _parsed(self, line: bytes) -> Message | NoMessage | None:
        nonce, _, text = line.partition(b" ")
        if nonce != self.nonce.encode():
            return None
        try:
            return parse_message(text)
        except NoMessage as problem:
            return problem
