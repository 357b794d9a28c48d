"""Recorded sockets: as plain ones to whoever uses them, and every call on them is noted."""

from __future__ import annotations

import asyncio
import copy
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from testbed.kernel.sockdiag import socket_cookie
from testbed.lab.lab import Lab
from testbed.lab.owner import owned_by_a_process
from testbed.lab.pair import Pair
from testbed.observe.calls import Call, CallLog
from testbed.observe.recorded_socket import RecordedSocket

Socket = socket.socket


def texts(log: CallLog, cookie: int) -> list[str]:
    return [each.text for each in log.calls if each.cookie == cookie]


def test_the_calls_of_a_connection(lab: Lab) -> None:
    pair = Pair(lab)
    with CallLog().record(lab) as log, pair.connect() as connection:
        client, server = connection.client, connection.server
        assert isinstance(client, RecordedSocket)
        assert isinstance(server, RecordedSocket)
        client.sendall(b"hello")
        server.recv(100)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.recv(1)
        client.shutdown(socket.SHUT_WR)
        cookies = socket_cookie(client), socket_cookie(server)
        client.close()
    to = f"{connection.tuple.dst}:{connection.tuple.dport}"
    assert texts(log, cookies[0]) == [
        f"connect({to}) → 0",
        "sendall(5 B) → 0",
        "shutdown(SHUT_WR) → 0",
        "close() → 0",
    ]
    assert texts(log, cookies[1]) == [
        "recv(100) → 5 B",
        "recv(1) → EAGAIN (Resource temporarily unavailable)",
        "close() → 0",
    ]
    (accepted,) = [each for each in log.calls if each.accepted]
    assert (accepted.host, accepted.name, accepted.accepted) == ("server", "accept", cookies[1])
    assert accepted.result == f"{connection.tuple.src}:{connection.tuple.sport}"
    assert {each.host for each in log.calls if each.cookie == cookies[0]} == {"client"}
    assert all(each.took_ns > 0 for each in log.calls)


def test_plain_sockets_before_and_behind(lab: Lab) -> None:
    client = lab["client"]
    with CallLog().record(lab), client.socket(socket.AF_UNIX) as other:
        assert type(other) is Socket
        with client.socket(kind=socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as recorded:
            assert isinstance(recorded, RecordedSocket)
            assert recorded.gettimeout() == 0
    with client.socket() as plain:
        assert type(plain) is Socket


def test_a_number_of_calls_wakes_who_reads(lab: Lab) -> None:
    seen: list[int] = []
    log = CallLog(lambda: seen.append(len(log.raw)), every=3)
    with log.record(lab), lab["client"].socket() as sock:
        for _ in range(7):
            sock.connect_ex(("127.0.0.1", 1))
    assert seen == [3, 6]
    refused: Call = log.calls[0]
    assert (refused.result, refused.errno) == ("ECONNREFUSED (Connection refused)", 111)


# Each does something with a connected client and server, and returns what a person could see of it.
Script = Callable[[Socket, Socket], Any]


def raised(function: Callable[[], object]) -> tuple[str, ...]:
    """What it raises, in the words of a plain socket."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever it is, it is compared)
        function()
    return type(caught.value).__name__, str(caught.value).replace("RecordedSocket", "socket")


def _received(client: Socket, server: Socket) -> Any:
    buffer, other = bytearray(4), memoryview(bytearray(8))
    client.sendall(b"0123456789abcdef")
    client.sendmsg([b"gh", bytearray(b"ijkl")])
    return (
        server.recv(2),
        server.recv(2, socket.MSG_PEEK),
        server.recv_into(buffer),
        buffer,
        server.recv_into(other, 3),
        server.recvfrom(2),
        server.recvfrom_into(other),
        bytes(other),
        server.recvmsg(1),
        server.recvmsg_into([buffer])[0],
        buffer,
    )


def _files(client: Socket, server: Socket) -> Any:
    with server.makefile("rw") as file:
        client.sendall(b"a line\n")
        print(file.readline(), file=file, flush=True)
        first = client.recv(100)
        server.close()
        open_still = server.fileno() >= 0
    return first, open_still, server.fileno(), client.recv(1)


def _dup(client: Socket, server: Socket) -> Any:
    server.settimeout(0.5)
    with server.dup() as other:
        client.send(b"x")
        server.close()
        return other.recv(1), other.gettimeout(), other.family, other.type, other.proto


def _detach(client: Socket, server: Socket) -> Any:
    with Socket(fileno=client.detach()) as other:
        other.send(b"x")
        return server.recv(1), client.fileno(), raised(lambda: client.send(b""))


def _timeouts(client: Socket, server: Socket) -> Any:
    server.settimeout(0.001)
    timed_out = raised(lambda: server.recv(1))
    server.setblocking(False)
    blocked = raised(lambda: server.recv(1)), server.getblocking(), server.gettimeout()
    with client:
        pass
    client.close()
    return timed_out, blocked, raised(lambda: client.recv(1)), client.fileno()


def _wrong(client: Socket, _server: Socket) -> Any:
    odd: Any = client
    odd.settimeout(0.001)
    return [
        raised(call)
        for call in (
            lambda: odd.send("text"),
            odd.send,
            lambda: odd.connect("here"),
            lambda: odd.connect(("127.0.0.1", 1)),
            lambda: odd.recv(-1),
            lambda: odd.setsockopt(1, 2),
            lambda: odd.bind(("10.99.99.99", 0)),
            odd.accept,
            lambda: odd.shutdown(9),
            lambda: odd.nothing,
        )
    ]


def _copies(client: Socket, _server: Socket) -> Any:
    return raised(lambda: pickle.dumps(client)), raised(lambda: copy.copy(client))


def _options(client: Socket, server: Socket) -> Any:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return (
        server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
        server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1),
        server.recv(1),
    )


def _words(client: Socket, server: Socket) -> Any:
    words = repr(client).replace("testbed.observe.recorded_socket.RecordedSocket", "socket.socket")
    return (
        words.split(" laddr")[0].split(" fd=")[0],
        words.count("="),
        isinstance(server, Socket),
        bool(client),
    )


def _loop(client: Socket, server: Socket) -> Any:
    async def talk() -> Any:
        loop = asyncio.get_running_loop()
        server.setblocking(False)
        client.setblocking(False)
        reader = asyncio.ensure_future(loop.sock_recv(server, 10))
        await asyncio.sleep(0)
        await loop.sock_sendall(client, b"there")
        got = await reader
        streams = await asyncio.open_connection(sock=server)
        client.sendall(b"again\n")
        line = await streams[0].readline()
        streams[1].close()
        await streams[1].wait_closed()
        return got, line

    return asyncio.run(talk()), client.fileno() >= 0


SCRIPTS = [_received, _files, _dup, _detach, _timeouts, _wrong, _copies, _options, _words, _loop]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__.strip("_"))
def test_as_a_plain_socket(lab: Lab, script: Script) -> None:
    pair = Pair(lab)
    with pair.connect() as connection:
        plain = script(connection.client, connection.server)
    with CallLog().record(lab) as log, pair.connect() as connection:
        assert script(connection.client, connection.server) == plain
    assert log.calls


def test_what_a_recorded_socket_makes_is_recorded(lab: Lab) -> None:
    with CallLog().record(lab) as log, Pair(lab).connect() as connection:
        with connection.server.dup() as other, other.makefile("rb", 64) as file:
            connection.client.sendall(b"line\n")
            assert file.readline() == b"line\n"
        assert texts(log, socket_cookie(connection.server)) == ["recv_into(64 B) → 5", "close() → 0"]


def test_options_and_data_in_words(lab: Lab) -> None:
    with CallLog().record(lab) as log, lab["client"].socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, b"\1\0\0\0")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 1, 0))
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        sock.bind(("", 0))
        with pytest.raises(TypeError):
            sock.send("text")  # type: ignore[arg-type]
    assert [each.text for each in log.calls] == [
        "setsockopt(SO_REUSEADDR, 1) → 0",
        "setsockopt(TCP_NODELAY, 4 B) → 0",
        "getsockopt(SO_ERROR) → 0",
        "bind(*:0) → 0",
        "send(text) → TypeError",
        "close() → 0",
    ]


def test_a_socket_given_to_a_process(lab: Lab) -> None:
    with CallLog().record(lab), Pair(lab).connect() as connection:
        with owned_by_a_process(lab["client"], connection.client) as process:
            process.kill()
        assert connection.server.recv(1) == b""
