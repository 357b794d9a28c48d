"""Sockets that note the calls made on them, and are plain ones to whoever uses them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from functools import wraps
from socket import SO_ERROR, SO_SNDTIMEO, SOCK_STREAM, SOL_SOCKET
from time import monotonic_ns
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

from testbed.kernel.sockdiag import socket_cookie

Socket = socket.socket
RawCall = tuple[int, int, str, int, str, tuple[object, ...], object, int, str, int]
"""Begin and end, host, cookie, name, arguments, result, errno, type of error, cookie of accept()'s socket."""

_KEPT = 48  # bytes of data: enough to know it again


class Notes(Protocol):
    """Takes calls down, and knows the sockets whose calls they are."""

    sockets: WeakSet[RecordedSocket]
    lock: threading.Lock

    def note(self, call: RawCall) -> None:
        """A call has ended."""


class Data(NamedTuple):
    """Bytes that a call was given or gave: how many, and the first of them."""

    size: int
    head: bytes

    def __str__(self) -> str:
        return f"{self.size} B"


def _short(value: object) -> object:
    """An argument or result that may be kept: data as its size and its beginning, no objects."""
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        size = value.nbytes if isinstance(value, memoryview) else len(value)
        return Data(size, bytes(value[:_KEPT]) if size == len(value) else b"")
    if isinstance(value, tuple):
        return tuple(map(_short, value)) if value and isinstance(value[0], bytes) else value
    return type(value).__name__


def _recorded(name: str) -> Callable[..., Any]:
    """A method that notes its call."""
    plain = getattr(Socket, name)

    @wraps(plain)
    def call(self: RecordedSocket, *args: Any, **kwargs: Any) -> Any:
        if self.log is None:
            return plain(self, *args, **kwargs)
        begin = monotonic_ns()
        try:
            result = plain(self, *args, **kwargs)
        except BaseException as error:
            self.noted(begin, name, args, None, error)
            raise
        self.noted(begin, name, args, result)
        return result

    return call


class RecordedSocket(Socket):
    """A socket that notes the calls made on it. Without a log it is a plain one."""

    __slots__ = ("cookie", "host", "is_stream", "log")

    def __init__(
        self,
        family: int = -1,
        type: int = -1,
        proto: int = -1,
        fileno: int | None = None,
        *,
        log: Notes | None = None,
        host: str = "",
    ) -> None:
        super().__init__(family, type, proto, fileno)
        self.log = log
        self.host = host
        self.cookie = socket_cookie(self) if log is not None else 0
        self.is_stream = type == SOCK_STREAM  # for who asks often: the property makes an enum of it

    def noted(
        self,
        begin: int,
        name: str,
        args: tuple[Any, ...],
        result: object,
        error: BaseException | None = None,
        accepted: int = 0,
    ) -> None:
        """Notes a call that has just ended."""
        end = monotonic_ns()
        if self.log is None:
            return
        number = error.errno or 0 if isinstance(error, OSError) else 0
        kind = "" if error is None else error.__class__.__name__
        kept = tuple(map(_short, args)) if args else args
        self.log.note(
            (begin, end, self.host, self.cookie, name, kept, _short(result), number, kind, accepted)
        )

    bind = _recorded("bind")
    connect = _recorded("connect")
    connect_ex = _recorded("connect_ex")
    _detach = _recorded("detach")
    listen = _recorded("listen")
    recv = _recorded("recv")
    recv_into = _recorded("recv_into")
    recvfrom = _recorded("recvfrom")
    recvfrom_into = _recorded("recvfrom_into")
    recvmsg = _recorded("recvmsg")
    recvmsg_into = _recorded("recvmsg_into")
    send = _recorded("send")
    sendall = _recorded("sendall")
    sendmsg = _recorded("sendmsg")
    sendto = _recorded("sendto")
    shutdown = _recorded("shutdown")

    def accept(self) -> tuple[Socket, Any]:
        """As that of socket; what it returns is recorded too."""
        begin = monotonic_ns()
        try:
            made, address = super().accept()
        except BaseException as error:
            self.noted(begin, "accept", (), None, error)
            raise
        if self.log is None:
            return made, address
        recorded = recorded_socket(made, self.log, self.host)
        self.noted(begin, "accept", (), address, None, recorded.cookie)
        return recorded, address

    def close(self) -> None:
        """As that of socket. Closing again is no call of the kernel's, and is not noted."""
        if self.fileno() < 0:
            super().close()
            return
        begin = monotonic_ns()
        if self.log is None:
            super().close()
            return
        with self.log.lock:
            super().close()
        self.noted(begin, "close", (), None)

    def detach(self) -> int:
        """As that of socket."""
        if self.log is None:
            return super().detach()
        with self.log.lock:
            number: int = self._detach()
        return number

    def dup(self) -> RecordedSocket:
        """As that of socket; it notes its calls too."""
        made = super().dup()
        assert isinstance(made, RecordedSocket)
        made.log, made.host, made.cookie, made.is_stream = self.log, self.host, self.cookie, self.is_stream
        return made

    def getsockopt(self, *args: Any) -> Any:
        """As that of socket. SO_ERROR alone is noted: it changes something."""
        if args[:2] != (SOL_SOCKET, SO_ERROR):
            return super().getsockopt(*args)
        begin = monotonic_ns()
        result = super().getsockopt(*args)
        self.noted(begin, "getsockopt", args, result)
        return result

    def setsockopt(self, *args: Any) -> None:
        """As that of socket. SO_SNDTIMEO is not noted: it is the deadline of who connects for the test."""
        begin = monotonic_ns()
        try:
            super().setsockopt(*args)
        except BaseException as error:
            self.noted(begin, "setsockopt", args, None, error)
            raise
        if args[:2] != (SOL_SOCKET, SO_SNDTIMEO):
            self.noted(begin, "setsockopt", args, None)


def recorded_socket(made: Socket, log: Notes, host: str) -> RecordedSocket:
    """The same socket of the kernel's; ``made`` has nothing any more."""
    timeout = made.gettimeout()
    kind, proto = made.type, made.proto
    recorded = RecordedSocket(made.family, kind, proto, made.detach(), log=log, host=host)
    with log.lock:
        log.sockets.add(recorded)
    if recorded.gettimeout() != timeout:
        recorded.settimeout(timeout)
    return recorded
