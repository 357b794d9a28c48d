"""Races that a gate makes repeatable: each in every family, with exact states, and without a sleep."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testbed.bpf.elf.loader import ObjectLoader
from testbed.errors import WaitExpired
from testbed.gates import Ack, Data, Fin, Link, Rst, SegmentKind, Syn, SynAck
from testbed.kernel.counters import grown
from testbed.kernel.rto import set_min_rto
from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Direction
from testbed.kmesh.mesh import Mesh
from testbed.lab.host import Host
from testbed.lab.impatience import Impatience
from testbed.lab.lab import Lab
from testbed.lab.pair import Connection, Pair
from testbed.lab.sockets import reset
from testbed.observe.callbacks import Op
from testbed.observe.tap import Tap

STATES = [TcpState.ESTABLISHED, TcpState.CLOSE]
SENT = bytes(range(256)) * 250
ONCE_EACH = sorted((direction, state) for direction in Direction for state in STATES)


@pytest.fixture(scope="session")
def impatience(object_loader: ObjectLoader) -> Iterator[Impatience]:
    with Impatience(object_loader) as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def patient(lab: Lab) -> None:
    """Nothing that is held is sent again meanwhile, however slow the machine is."""
    for host in lab.hosts.values():
        set_min_rto(host.namespace.route, host.ends[0], 10_000)
        host.namespace.sysctl({"net/ipv4/tcp_early_retrans": "0"})  # no probe for what is lost at the end


@pytest.fixture
def hurried(lab: Lab, patient: None) -> None:  # noqa: ARG001 (it comes after that)
    """What is lost is sent again after a jiffy, and not after 200 ms."""
    for host in lab.hosts.values():
        set_min_rto(host.namespace.route, host.ends[0], 1)


def states(host: Host) -> list[TcpState]:
    return [each.state for each in host.tcp_sockets() if each.state is not TcpState.LISTEN]


def both(pair: Pair) -> tuple[list[TcpState], list[TcpState]]:
    return states(pair.client), states(pair.server)


def there(sock: socket.socket) -> bytes:
    """What can be read without waiting."""
    sock.setblocking(False)
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""
    finally:
        sock.settimeout(2)


def receive(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (more := sock.recv(size - len(got))):
        got += more
    return got


@contextmanager
def widened(pair: Pair) -> Iterator[Connection]:
    """A connection that has sent so much that it sends 64 KiB at once."""
    with pair.listen() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        with pair.connect(listener=listener) as connection:
            for _ in range(40):
                connection.client.sendall(SENT)
                receive(connection.server, len(SENT))
            yield connection


def begin(pair: Pair, listener: socket.socket, sock: socket.socket) -> None:
    pair.client.begin_connect(pair.server.address(pair.family.version), listener.getsockname()[1], sock)


def test_close_during_the_handshake(pair: Pair, tap: Tap, link: Link) -> None:
    with pair.listen() as listener, link.hold(SynAck) as answer, link.let_pass(Rst) as resets:
        with pair.client_socket() as sock:
            begin(pair, listener, sock)
            answer.seen()
        assert both(pair) == ([], [TcpState.SYN_RECV])
        answer.release()
        assert {each.sender for each in resets.seen()} == {"client"}
    pair.lab.settle()
    assert both(pair) == ([], [])
    assert not {Op.ACTIVE_ESTABLISHED, Op.PASSIVE_ESTABLISHED} & {each.op for each in tap}


def test_simultaneous_close(pair: Pair, link: Link) -> None:
    with pair.connect() as connection, link.hold(Ack), link.hold(Fin) as fins:
        connection.client.shutdown(socket.SHUT_WR)
        connection.server.shutdown(socket.SHUT_WR)
        fins.seen(2)
        assert both(pair) == ([TcpState.FIN_WAIT1], [TcpState.FIN_WAIT1])
        fins.release()
        assert both(pair) == ([TcpState.CLOSING], [TcpState.CLOSING])
    pair.lab.settle()
    assert both(pair) == ([TcpState.TIME_WAIT], [TcpState.TIME_WAIT])


@pytest.mark.families("v4", "v6")
def test_simultaneous_open(pair: Pair, tap: Tap, link: Link) -> None:
    with pair.client_socket() as one, pair.server.socket(pair.family.client) as other:
        for sock in (one, other):
            sock.bind(("", 0))
        with link.hold(Syn) as syns:
            version = pair.family.version
            pair.client.begin_connect(pair.server.address(version), other.getsockname()[1], one)
            pair.server.begin_connect(pair.client.address(version), one.getsockname()[1], other)
            syns.seen(2)
            assert both(pair) == ([TcpState.SYN_SENT], [TcpState.SYN_SENT])
        pair.lab.settle()
        assert both(pair) == ([TcpState.ESTABLISHED], [TcpState.ESTABLISHED])
        assert {each.op for each in tap} & {Op.ACTIVE_ESTABLISHED, Op.PASSIVE_ESTABLISHED}


@pytest.mark.usefixtures("hurried")
def test_a_lost_fin(pair: Pair, mesh: Mesh, link: Link) -> None:
    """It is sent again, and the closing is reported once."""
    mesh.manage(pair.client, pair.server)
    before = pair.client.counters()
    with (
        pair.connect() as connection,
        link.hold(Fin, sender="client") as again,
        link.drop(Fin, nth=1, sender="client") as lost,
    ):
        connection.client.close()
        again.seen()
        assert both(pair) == ([TcpState.FIN_WAIT1], [TcpState.ESTABLISHED])
        again.release()
        assert connection.server.recv(1) == b""
    pair.lab.settle()
    assert sorted(record.event for record in mesh.observed) == ONCE_EACH
    assert grown(before, pair.client.counters())["TcpRetransSegs"] >= lost.count == 1


def test_a_late_ack(pair: Pair, link: Link) -> None:
    """To the client it is established; to the server it is so only once the ACK has come."""
    with pair.listen() as listener, pair.client_socket() as sock, link.hold(Ack, sender="client") as ack:
        begin(pair, listener, sock)
        ack.seen()
        assert both(pair) == ([TcpState.ESTABLISHED], [TcpState.SYN_RECV])
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        ack.release()
        assert both(pair) == ([TcpState.ESTABLISHED], [TcpState.ESTABLISHED])
        listener.accept()[0].close()


def test_a_dropped_syn(pair: Pair, link: Link, impatience: Impatience) -> None:
    with impatience.of(pair.lab), link.drop(Syn, nth=1) as lost, pair.connect():
        assert lost.count == 1
        assert both(pair) == ([TcpState.ESTABLISHED], [TcpState.ESTABLISHED])


def test_a_syn_ack_dropped_twice(pair: Pair, link: Link, impatience: Impatience) -> None:
    with pair.listen() as listener, pair.client_socket() as sock, impatience.of(pair.lab):
        # before Linux 5.17 the server's third comes after two seconds
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 12)
        pair.server.namespace.sysctl({"net/ipv4/tcp_synack_retries": "12"})
        with link.drop(SynAck) as lost:
            begin(pair, listener, sock)
            assert [each.number for each in lost.seen(2)][:2] == [1, 2]
            assert both(pair) == ([TcpState.SYN_SENT], [TcpState.SYN_RECV])
        listener.accept()[0].close()


def test_only_the_second(pair: Pair, link: Link) -> None:
    """Of three SYN-ACKs: one connection each."""
    with link.drop(SynAck, nth=2) as lost:
        pair.connect().close()
        assert lost.matches == []
        with pair.listen() as listener, pair.client_socket() as sock:
            begin(pair, listener, sock)
            assert [each.number for each in lost.seen()] == [2]
            assert set(states(pair.client)) == {TcpState.TIME_WAIT, TcpState.SYN_SENT}
        pair.connect().close()
        assert lost.count == 1


def test_a_duplicated_syn(pair: Pair, link: Link) -> None:
    before = pair.server.counters()
    with link.duplicate(Syn) as twice, pair.connect():
        pair.lab.settle()
        assert both(pair) == ([TcpState.ESTABLISHED], [TcpState.ESTABLISHED])
        counted = grown(before, pair.server.counters())
        assert counted["TcpPassiveOpens"] == twice.count == 1
        assert counted["TcpInSegs"] > 2


def test_a_duplicated_fin(pair: Pair, mesh: Mesh, link: Link) -> None:
    mesh.manage(pair.client, pair.server)
    with pair.connect() as connection, link.duplicate(Fin) as twice:
        connection.client.shutdown(socket.SHUT_WR)
        assert connection.server.recv(1) == b""
        assert both(pair) == ([TcpState.FIN_WAIT2], [TcpState.CLOSE_WAIT])
        connection.server.close()
        twice.seen(2)
    pair.lab.settle()
    assert states(pair.client) == [TcpState.TIME_WAIT]
    assert sorted(record.event for record in mesh.observed) == ONCE_EACH


def test_duplicated_data(pair: Pair, link: Link) -> None:
    before = pair.server.counters()
    with pair.connect() as connection:
        with link.duplicate(Data):
            connection.client.sendall(b"once")
            assert connection.server.recv(100) == b"once"
        pair.lab.settle()
        assert there(connection.server) == b""
    assert grown(before, pair.server.counters())["TcpExtTCPDSACKOldSent"] == 1


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("kind", "nth"), [(Data, 1), (Data, 2), (Fin, 1)])
def test_what_is_corrupted_is_sent_again(pair: Pair, link: Link, kind: SegmentKind, nth: int) -> None:
    """The receiving TCP does not take it; what comes after is whole."""
    before = pair.server.counters()
    with pair.connect() as connection, link.corrupt(kind, nth=nth, sender="client") as bad:
        connection.client.sendall(SENT[:5000])
        assert receive(connection.server, 5000) == SENT[:5000]
        connection.client.close()
        assert connection.server.recv(1) == b""
    assert grown(before, pair.server.counters())["TcpInCsumErrors"] == bad.count == 1


def test_64_kib_are_held_as_they_are(pair: Pair, link: Link) -> None:
    """Many segments in one frame, as the kernel hands them over."""
    with widened(pair) as connection:
        with link.hold(Data) as data:
            connection.client.sendall(SENT)
            assert max(each.payload for each in data.seen()) > 60_000
            assert there(connection.server) == b""
        assert receive(connection.server, len(SENT)) == SENT


def test_held_frames_arrive_in_order(pair: Pair, link: Link) -> None:
    with pair.connect() as connection, link.hold(Data, to="server") as data:
        connection.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for word in (b"one ", b"two ", b"three ", b"four"):
            connection.client.sendall(word)
        data.seen(4)
        data.release(1)
        assert there(connection.server) == b"one "
        data.release(2)
        assert there(connection.server) == b"two three "
        data.close()
        assert there(connection.server) == b"four"


def test_a_held_rst(pair: Pair, link: Link) -> None:
    """Nothing moves as far as the sockets tell; the lab is not at rest for that."""
    with pair.connect() as connection:
        with link.hold(Rst) as resets:
            reset(connection.client)
            resets.seen()
            assert both(pair) == ([], [TcpState.ESTABLISHED])
            with pytest.raises(WaitExpired, match=r"released or lost: held RST ACK, 1st of hold\(Rst\)"):
                pair.lab.settle(deadline=0.02)
        with pytest.raises(ConnectionResetError):
            connection.server.recv(1)
