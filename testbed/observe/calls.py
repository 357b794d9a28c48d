"""The calls that a test makes on the sockets of a lab, noted as they are made.

A host hands out recorded sockets while a log records: real sockets, whose calls take a microsecond more.
Commands that run on hosts make their calls unseen, and so does what calls the kernel by a socket's
descriptor (``os.read``, ``os.sendfile``).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from socket import AF_INET, AF_INET6
from typing import NamedTuple
from weakref import WeakSet

from testbed.errors import errno_name
from testbed.lab.family import endpoint, unmapped
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.observe.recorded_socket import Data, RawCall, RecordedSocket, recorded_socket

Socket = socket.socket


class Call(NamedTuple):
    """One call. ``time_ns`` is when it began (CLOCK_MONOTONIC), ``took_ns`` how long it took.

    ``cookie`` is the socket's, ``accepted`` that of the socket that accept() made (else 0). ``error`` is
    the name of the exception's type ("" of none), ``errno`` its number (0 of none: of a timeout in
    Python's own waiting, for example). ``arguments`` and ``result`` are in words.
    """

    time_ns: int
    took_ns: int
    host: str
    cookie: int
    name: str
    arguments: str
    result: str
    errno: int
    error: str
    accepted: int

    @property
    def text(self) -> str:
        """``connect(10.0.0.2:80) → 0``, ``recv(4096) → ECONNRESET (Connection reset by peer)``."""
        return f"{self.name}({self.arguments}) → {self.result}"


class CallLog:
    """The calls of one lab so far, in the order in which they ended. Threads may share its sockets."""

    def __init__(self, on_call: Callable[[], None] | None = None, every: int = 64) -> None:
        """``on_call`` is called behind each ``every``-th call: time to read what has a limit.

        Always in the thread that made the log; what it raises, the call raises.
        """
        self.on_call = on_call
        self.raw: list[RawCall] = []
        self.sockets: WeakSet[RecordedSocket] = WeakSet()
        """Those that somebody still holds, open or closed."""
        self.lock = threading.Lock()
        """Held while one is made or closed: who has it can go by their descriptors."""
        self._every = every
        self._until = every
        self._thread = threading.get_ident()

    def note(self, call: RawCall) -> None:
        """Takes a call down, as it is."""
        self.raw.append(call)
        if self.on_call is not None and threading.get_ident() == self._thread:
            self._until -= 1
            if self._until <= 0:
                self._until = self._every
                self.on_call()

    @property
    def calls(self) -> list[Call]:
        """Everything so far, by the time when it began. Put into words now."""
        return sorted((_told(each) for each in list(self.raw)), key=lambda each: each.time_ns)

    @contextmanager
    def record(self, lab: Lab) -> Iterator[CallLog]:
        """Within the block the lab's hosts hand out recorded sockets, which stay so behind it."""
        with ExitStack() as stack:
            for host in lab.hosts.values():
                stack.enter_context(self._recording(host))
            yield self

    @contextmanager
    def _recording(self, host: Host) -> Iterator[None]:
        before, host.wrap = host.wrap, partial(self._wrap, host.name)
        try:
            yield
        finally:
            host.wrap = before

    def _wrap(self, host: str, made: Socket) -> Socket:
        if made.family not in {AF_INET, AF_INET6}:
            return made
        return recorded_socket(made, self, host)


_LEVELS = {socket.SOL_SOCKET: "SO_", socket.IPPROTO_TCP: "TCP_", socket.IPPROTO_IPV6: "IPV6_", 0: "IP_"}
_NOT_OF_SOL_SOCKET = ("SO_J1939", "SO_VM_SOCKETS")
_HOW = {socket.SHUT_RD: "SHUT_RD", socket.SHUT_WR: "SHUT_WR", socket.SHUT_RDWR: "SHUT_RDWR"}


def _told(raw: RawCall) -> Call:
    begin, end, host, cookie, name, args, result, number, error, accepted = raw
    if error:
        told = errno_name(number) if number else error
    elif name == "connect_ex" and isinstance(result, int) and result:
        told, number = errno_name(result), result
    else:
        told = _result(name, result)
    return Call(begin, end - begin, host, cookie, name, _arguments(name, args), told, number, error, accepted)


def _result(name: str, result: object) -> str:
    if result is None:
        return "0"
    if name in {"recvfrom", "recvmsg"} and isinstance(result, tuple):
        return _word(result[0])
    if name == "getsockopt" and isinstance(result, int):
        return errno_name(result) if result else "0"
    return _word(result)


def _arguments(name: str, args: tuple[object, ...]) -> str:
    match name, args:
        case "shutdown", (int(how), *_):
            return _HOW.get(how, str(how))
        case "getsockopt" | "setsockopt", (int(level), int(option), *rest):
            return ", ".join([_option(level, option), *map(_word, rest)])
    return ", ".join(map(_word, args))


def _option(level: int, option: int) -> str:
    if (prefix := _LEVELS.get(level)) is not None:
        for name in dir(socket):
            if (
                name.startswith(prefix)
                and not name.startswith(_NOT_OF_SOL_SOCKET)
                and getattr(socket, name) == option
            ):
                return name
    return f"option {option} of level {level}"


def _word(value: object) -> str:
    if isinstance(value, tuple) and not isinstance(value, Data):
        match value:
            case (str(host), int(port), *_):
                return _endpoint(host, port)
    return str(value) if isinstance(value, int | str | Data) else type(value).__name__


def _endpoint(host: str, port: int) -> str:
    try:
        return endpoint(unmapped(host), port)
    except ValueError:  # a name, or nothing: every address
        return f"{host or '*'}:{port}"
