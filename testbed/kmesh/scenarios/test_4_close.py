"""Close: reported once, the verdict forgotten"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

import pytest

from testbed.kernel.sockdiag import TcpState
from testbed.kernel.syscalls import disconnect
from testbed.kmesh.abi import Direction, Verdict
from testbed.kmesh.mesh import Mesh
from testbed.lab.pair import Connection, Pair
from testbed.lab.sockets import reset
from testbed.observe.callbacks import Op
from testbed.observe.tap import Tap

ESTABLISHED = [
    (Direction.OUTBOUND, TcpState.ESTABLISHED),
    (Direction.INBOUND, TcpState.ESTABLISHED),
]
CLOSED_OUTBOUND = (Direction.OUTBOUND, TcpState.CLOSE)
CLOSED_INBOUND = (Direction.INBOUND, TcpState.CLOSE)


def test_exactly_four_records_and_one_request(pair: Pair, mesh: Mesh) -> None:
    """both managed: 4 records, 1 request, nothing left"""
    mesh.manage(pair.client, pair.server)
    managed = set(mesh.managed)
    with pair.connect() as connection:
        pass
    pair.lab.settle()
    assert [record.event for record in mesh.observed] == [*ESTABLISHED, CLOSED_OUTBOUND, CLOSED_INBOUND]
    assert {record.tuple for record in mesh.observed} == {connection.tuple}
    assert [request.tuple for request in mesh.auth_requests] == [connection.tuple]
    assert not mesh.verdicts
    assert not mesh.sockhash
    assert set(mesh.managed) == managed


def test_the_server_closes_first(pair: Pair, mesh: Mesh) -> None:
    """server first: closed records in that order"""
    mesh.manage(pair.client, pair.server)
    connection = pair.connect()
    connection.server.close()
    connection.client.close()
    pair.lab.settle()
    assert [record.event for record in mesh.observed] == [*ESTABLISHED, CLOSED_INBOUND, CLOSED_OUTBOUND]


def test_closing_deletes_the_verdict(pair: Pair, mesh: Mesh) -> None:
    """the verdict of the connection is gone"""
    mesh.manage(pair.client, pair.server)
    with pair.connect() as connection:
        mesh.authorize(lambda _request: Verdict.DENY)
        assert mesh.verdicts == {connection.tuple: Verdict.DENY}
        connection.close()
        mesh.eventually(lambda: connection.tuple not in mesh.verdicts)


def test_closing_leaves_the_verdicts_of_others(pair: Pair, mesh: Mesh) -> None:
    """the verdicts of others stay"""
    mesh.manage(pair.client, pair.server)
    with pair.connect() as stays, pair.connect() as goes:
        mesh.authorize(lambda _request: Verdict.DENY)
        goes.close()
        pair.lab.settle()
        assert mesh.verdicts == {stays.tuple: Verdict.DENY}


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_half_close_is_no_close(pair: Pair, mesh: Mesh, tap: Tap, who: str) -> None:
    """half closed: no record, verdict stays"""
    mesh.manage(pair.client, pair.server)
    with pair.connect() as connection:
        mesh.authorize(lambda _request: Verdict.ALLOW)
        first, second = connection.client, connection.server
        if who == "server":
            first, second = second, first
        first.shutdown(socket.SHUT_WR)
        assert second.recv(1) == b""
        pair.lab.settle()
        assert tap.of(second, Op.STATE)[-1].change[1] is TcpState.CLOSE_WAIT
        assert [record.event for record in mesh.observed] == ESTABLISHED
        assert connection.tuple in mesh.verdicts
        second.sendall(b"still here")
        assert first.recv(64) == b"still here"


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_closes_both(pair: Pair, mesh: Mesh, who: str) -> None:
    """reset: both report it, verdict gone"""
    mesh.manage(pair.client, pair.server)
    with pair.connect() as connection:
        mesh.authorize(lambda _request: Verdict.DENY)
        reset(connection.client if who == "client" else connection.server)
        pair.lab.settle()
        closed = [record.event for record in mesh.observed][2:]
        assert sorted(closed) == sorted([CLOSED_INBOUND, CLOSED_OUTBOUND])
        assert not mesh.verdicts


@pytest.mark.parametrize("who", ["client", "server"])
def test_only_the_managed_side_reports(pair: Pair, mesh: Mesh, who: str) -> None:
    """one side managed: only that reports"""
    mesh.manage(pair.client if who == "client" else pair.server)
    with pair.connect():
        pass
    pair.lab.settle()
    direction = Direction.OUTBOUND if who == "client" else Direction.INBOUND
    assert [record.event for record in mesh.observed] == [
        (direction, TcpState.ESTABLISHED),
        (direction, TcpState.CLOSE),
    ]


def test_nobody_managed_nobody_reports(pair: Pair, mesh: Mesh, tap: Tap) -> None:
    """nobody managed: no record, no STATE callback"""
    with pair.connect():
        pass
    pair.lab.settle()
    assert not mesh.reports()
    assert not mesh.auth_requests
    assert not [each for each in tap if each.op is Op.STATE]


def exchange(connection: Connection, there: bytes, back: bytes) -> None:
    for sender, receiver, data in (
        (connection.client, connection.server, there),
        (connection.server, connection.client, back),
    ):
        sender.sendall(data)
        received = bytearray()
        while len(received) < len(data):
            received += receiver.recv(65536)
        assert received == data


@dataclass(frozen=True)
class KernelCounts:
    """What the kernel says in struct tcp_info (Linux 4.9): bytes (a FIN counts one), microseconds."""

    sent: int
    received: int
    rtt: int
    rtt_min: int
    retransmitted: int

    @classmethod
    def of(cls, sock: socket.socket) -> KernelCounts:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 152)
        acked, received = struct.unpack_from("=QQ", info, 120)
        rtt, retransmitted, rtt_min = (struct.unpack_from("=I", info, at)[0] for at in (68, 100, 148))
        return cls(acked, received, rtt, rtt_min, retransmitted)


def test_the_closed_records_count_as_the_kernel(pair: Pair, mesh: Mesh) -> None:
    """bytes and round trips are the kernel's own"""
    mesh.manage(pair.client, pair.server)
    with pair.connect() as connection:
        exchange(connection, b"c" * 1000, b"s" * 30000)
        connection.client.shutdown(socket.SHUT_WR)
        connection.server.shutdown(socket.SHUT_WR)
        pair.lab.settle()
        closed = {record.direction: record for record in mesh.observed if record.state is TcpState.CLOSE}
        for direction, sock, sent, received in (
            (Direction.OUTBOUND, connection.client, 1000, 30000),
            (Direction.INBOUND, connection.server, 30000, 1000),
        ):
            record = closed[direction]
            reported = KernelCounts(
                record.sent_bytes,
                record.received_bytes,
                record.srtt_us >> 3,
                record.rtt_min,
                record.total_retrans,
            )
            assert reported == KernelCounts.of(sock)
            assert 0 <= record.sent_bytes - sent <= 2  # SYN and FIN at most
            assert 0 <= record.received_bytes - received <= 1


def test_the_closed_records_keep_the_addresses(pair: Pair, mesh: Mesh) -> None:
    """addresses and start as when established"""
    mesh.manage(pair.client, pair.server)
    with pair.connect():
        pass
    pair.lab.settle()
    for direction in Direction:
        first, last = (record for record in mesh.observed if record.direction is direction)
        assert (last.tuple, last.orig_dst, last.start_ns) == (first.tuple, first.orig_dst, first.start_ns)
        assert (last.conn_success, last.protocol) == (True, socket.IPPROTO_TCP)
        assert 0 < last.start_ns <= first.last_report_ns < last.last_report_ns
        assert last.duration_ns == last.last_report_ns - last.start_ns


def test_a_refused_connect_is_no_connection(pair: Pair, mesh: Mesh) -> None:
    """refused: no record, no request"""
    mesh.manage(pair.client, pair.server)
    with pair.listen() as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        pair.client.connect(pair.server.address(pair.family.version), port)
    pair.lab.settle()
    assert not mesh.reports()
    assert not mesh.auth_requests


def test_a_socket_used_again_closes_once(pair: Pair, mesh: Mesh) -> None:
    """the socket used again, and refused: no second close"""
    mesh.manage(pair.client, pair.server)
    with pair.listen() as listener, pair.connect(listener=listener) as connection:
        disconnect(connection.client.fileno())
        pair.lab.settle()
        reported = [record.event for record in mesh.observed]
        assert sorted(reported) == sorted([*ESTABLISHED, CLOSED_OUTBOUND, CLOSED_INBOUND])
        port = listener.getsockname()[1]
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            pair.client.connect(connection.tuple.dst, port, sock=connection.client)
        pair.lab.settle()
        assert [record.event for record in mesh.observed] == reported
