"""Asking a keeper."""

from __future__ import annotations

import os
import select
import socket
import struct
from contextlib import ExitStack
from typing import Any

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.deadlines import scaled
from testbed.errors import TestbedError, UsageError
from testbed.keeper import protocol
from testbed.keeper.registry import LabGone, Record, choose, gone, socket_path

ANSWER_DEADLINE_S = scaled(10.0)


class Client(Closing):
    """A connection to the keeper of the lab ``name``, or of the one that `choose` has without a name."""

    def __init__(self, name: str = "") -> None:
        self.record = choose(name)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        acquired("socket", self._sock.fileno())
        # Not by Python's own timeout, under which a socket does not wait for its turn.
        self._sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(ANSWER_DEADLINE_S), 0)
        )
        try:
            self._sock.connect(str(socket_path(self.record.name)))
        except OSError as error:
            self._sock.close()
            raise LabGone(
                f"ask the lab {self.record.name}", "it is coming up, or going down", f"{self.record}"
            ) from error
        self._sock.settimeout(ANSWER_DEADLINE_S)

    def ask(self, request: protocol.Request) -> Any:
        """The value of the answer. Its error is raised."""
        value, fds = self.ask_with_fds(request)
        for fd in fds:
            os.close(fd)
        return value

    def ask_with_fds(self, request: protocol.Request) -> tuple[Any, list[int]]:
        """The value of the answer, and the descriptors that belong to it."""
        self._send(request)
        message, fds = self._receive()
        return message["value"], fds

    def _send(self, request: protocol.Request) -> None:
        try:
            self._sock.send(request.model_dump_json().encode())
        except OSError as error:
            raise gone(self.record.name) from error

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        try:
            message, fds = protocol.receive(self._sock)
        except (EOFError, ConnectionError) as error:
            raise gone(self.record.name) from error
        except TimeoutError as error:
            raise TestbedError(
                f"ask the lab {self.record.name}", f"no answer within {ANSWER_DEADLINE_S:.0f} s"
            ) from error
        if "error" in message:
            with ExitStack() as stack:
                for fd in fds:
                    stack.callback(os.close, fd)
                protocol.raise_error(message["error"])
        return message, fds

    def keeper(self) -> int:
        """A pidfd of the keeper, for the caller to close; the keeper's for sure once it has answered."""
        try:
            return os.pidfd_open(self.record.pid)
        except ProcessLookupError as error:
            raise gone(self.record.name) from error

    def subscribe(self, request: protocol.Watch | protocol.Packets) -> tuple[Any, str]:
        """Asks for what happens from now on. Returns the answer's value, and what the link is called."""
        self._send(request)
        message, _ = self._receive()
        return message["value"], message.get("link", "")

    def next_message(self, deadline: float | None = None) -> dict[str, Any] | None:
        """What comes after `subscribe`; None when nothing has for ``deadline`` seconds.

        An error that says so when the lab goes down.
        """
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if not poll.poll(None if deadline is None else max(deadline, 0) * 1000):
            return None
        return self._receive()[0]

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


def has_gone(record: Record) -> bool:
    """Whether a lab that was up has gone down, or is about to. A keeper that does not answer is there."""
    try:
        with Client(record.name) as client:
            client.ask(protocol.About())
            return client.record != record
    except (LabGone, UsageError):
        return True
    except TestbedError:
        return False
