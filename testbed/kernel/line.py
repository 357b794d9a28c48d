"""The testbed's end of a control socket: requests to the spawner or to a broker, and their replies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from socket import AF_UNIX, SOCK_SEQPACKET, socketpair
from socket import socket as Socket
from threading import RLock
from typing import Any

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.deadlines import scaled
from testbed.errors import TestbedError, machine_error
from testbed.kernel import broker

REPLY_DEADLINE_S = scaled(10.0)
LOG = "brokers"
"""The log that the spawner and the brokers write to."""
_GONE = f"was it killed? its lab cannot be used any more; what it said last is in the log {LOG}.log"
_MOST_OWED = 32  # replies that wait in a socket: its buffer has room for several times as many

Heard = tuple[list[Any], list[int], "broker.Truncated | None"]
"""The values of a message, its descriptors, and whether some of those were lost."""


def control_pair() -> tuple[Socket, Socket]:
    """Both ends of a control socket; the first is the testbed's."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    acquired("socket", ours.fileno())
    acquired("socket", theirs.fileno())
    ours.settimeout(REPLY_DEADLINE_S)
    return ours, theirs


def hear(sock: Socket, who: str) -> Heard:
    """The next message, with the descriptors that came before it. `TestbedError` when there is none."""
    fds: list[int] = []
    lost: broker.Truncated | None = None
    try:
        while True:
            try:
                values, received = broker.receive(sock)
            except broker.Truncated as error:
                values, received, lost = error.message, [], error
            for fd in received:
                acquired("descriptor", fd)
            fds += received
            if values != ["fds"]:
                return values, fds, lost
    except (EOFError, ConnectionError) as error:
        broker.close_all(fds)
        raise TestbedError(f"hear from {who}", "it is gone", _GONE) from error
    except TimeoutError as error:
        broker.close_all(fds)
        raise TestbedError(f"hear from {who}", f"no answer within {REPLY_DEADLINE_S:.0f} s") from error
    except BaseException:  # Ctrl-C
        broker.close_all(fds)
        raise


def answer(heard: Heard, who: str) -> tuple[list[Any], list[int]]:
    """The values and descriptors of a reply ``[errno, …]``. `OSError` is the kernel's own answer."""
    (code, *values), fds, lost = heard
    if lost is not None:
        broker.close_all(fds)
        raise machine_error(f"take descriptors from {who}", lost) from lost
    if code:
        broker.close_all(fds)
        raise OSError(code, str(values[0]))
    return values, fds


class Line(Closing):
    """Asks at one end of a control socket; ``who`` is at the other. Threads may share it.

    Replies come in the order of the requests, and need not be taken at once: `request` first, `reply`
    when there is nothing better to do.
    """

    def __init__(self, sock: Socket, who: str) -> None:
        self.who = who
        self.sock = sock
        self._lock = RLock()
        self._numbers = itertools.count()
        self._owed = 0
        self._wanted: set[int] = set()
        self._heard: dict[int, Heard] = {}

    def request(self, *message: object, fds: Sequence[int] = (), wanted: bool = True) -> int:
        """Sends a request, with copies of descriptors. Returns its number, for `reply`."""
        with self._lock:
            while self._owed >= _MOST_OWED:
                self._hear()
            number = next(self._numbers)
            if wanted:
                self._wanted.add(number)
            try:
                broker.send(self.sock, [number, *message], fds)
            except ConnectionError as error:
                raise TestbedError(f"ask {self.who}", "it is gone", _GONE) from error
            self._owed += 1
        return number

    def reply(self, number: int) -> tuple[list[Any], list[int]]:
        """Waits for the reply to a request. `OSError` is the kernel's own answer."""
        with self._lock:
            try:
                while number not in self._heard:
                    self._hear()
            finally:
                self._wanted.discard(number)
            return answer(self._heard.pop(number), self.who)

    def ask(self, *message: object, fds: Sequence[int] = ()) -> tuple[list[Any], list[int]]:
        """Sends a request and waits for its reply."""
        with self._lock:
            return self.reply(self.request(*message, fds=fds))

    def discard(self, numbers: Sequence[int]) -> None:
        """Waits for replies that nobody wants any more, and closes what comes with them."""
        for number in numbers:
            with suppress(OSError):  # a refusal
                broker.close_all(self.reply(number)[1])

    def _hear(self) -> None:
        (number, *values), fds, lost = hear(self.sock, self.who)
        self._owed -= 1
        if number in self._wanted:
            self._heard[number] = values, fds, lost
        else:
            broker.close_all(fds)

    def close(self) -> None:
        """Hangs up. Once more is harmless."""
        self.sock.close()
        while self._heard:
            _, (_, fds, _) = self._heard.popitem()
            broker.close_all(fds)
