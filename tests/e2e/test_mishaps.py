"""Mishaps on purpose: a shut gate, an aborted socket, a process or host that is gone, no answer."""

from __future__ import annotations

import errno
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_interface
from pathlib import Path

import pytest

from testbed.bpf.elf.loader import ObjectLoader
from testbed.errors import UsageError
from testbed.kernel.counters import grown
from testbed.kernel.rto import set_min_rto
from testbed.kernel.sockdiag import TcpState
from testbed.lab.family import Family
from testbed.lab.gate import Gate, cut
from testbed.lab.host import Host
from testbed.lab.impatience import Impatience
from testbed.lab.owner import owned_by_a_process
from testbed.lab.pair import Pair
from testbed.lab.segments import inject, nobodys_address, segment
from testbed.observe.callbacks import Op
from testbed.observe.tap import Tap


def states(host: Host) -> list[TcpState]:
    return [each.state for each in host.tcp_sockets() if each.state is not TcpState.LISTEN]


def arrived(sock: socket.socket) -> bytes:
    """What is there to read, without waiting."""
    sock.setblocking(False)
    try:
        return sock.recv(4096)
    except BlockingIOError:
        return b""


def test_a_gate_holds_and_passes_on(pair: Pair) -> None:
    # two segments that are under way would be probed for after 8 ms, whatever the least timeout is
    pair.client.namespace.sysctl({"net/ipv4/tcp_early_retrans": "0"})
    set_min_rto(pair.client.namespace.route, pair.client.ends[0], 10_000)
    before = pair.client.counters()
    with pair.connect() as connection:
        with Gate(pair.client, pair.server) as gate:
            connection.client.sendall(b"held")
            assert arrived(connection.server) == b""
            gate.pass_on()
            assert arrived(connection.server) == b"held"
            connection.client.sendall(b"held too")
            assert arrived(connection.server) == b""
        assert arrived(connection.server) == b"held too"
        pair.lab.settle()
        assert grown(before, pair.client.counters()).get("TcpRetransSegs") is None


def test_both_directions_are_held(pair: Pair) -> None:
    """FINs that cross: each side has sent its own before it sees the other's."""
    with pair.connect() as connection:
        with Gate(pair.client, pair.server) as gate:
            for sock in (connection.client, connection.server):
                sock.shutdown(socket.SHUT_WR)
            assert states(pair.client) == states(pair.server) == [TcpState.FIN_WAIT1]
            gate.pass_on()
            assert states(pair.client) == states(pair.server) == [TcpState.CLOSING]
        assert states(pair.client) == states(pair.server) == [TcpState.TIME_WAIT]


def test_what_is_lost_does_not_arrive(pair: Pair) -> None:
    with pair.connect() as connection:
        with Gate(pair.client, pair.server) as gate:
            connection.client.sendall(b"lost")
            assert gate.lose() == 1
        assert arrived(connection.server) == b""
        (sock,) = [each for each in pair.client.tcp_sockets() if each.state is TcpState.ESTABLISHED]
        assert sock.send_queue == 4
        pair.client.destroy(connection.client)


def test_a_gate_needs_a_link(pair: Pair) -> None:
    with pytest.raises(UsageError, match="no link joins them"):
        Gate(pair.client, pair.client.__class__("other", pair.server.namespace, pair.server.cgroup_fd))


@pytest.mark.parametrize("mine", [True, False], ids=["own", "peers"])
def test_one_socket_is_destroyed(pair: Pair, mine: bool) -> None:
    """The owner is told so, the peer is reset; the connection beside it stays."""
    with pair.connect() as stays, pair.connect() as connection:
        host, sock, peer = pair.client, connection.client, connection.server
        if not mine:
            host, sock, peer = pair.server, connection.server, connection.client
        host.destroy(sock)
        with pytest.raises(ConnectionAbortedError):
            sock.recv(1)
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
        stays.client.sendall(b"x")
        assert stays.server.recv(1) == b"x"


def test_only_a_socket_of_the_host_is_destroyed(pair: Pair) -> None:
    with pair.connect() as connection, pytest.raises(UsageError, match="client has no such TCP socket"):
        pair.client.destroy(connection.server)


def test_what_owns_a_socket_is_killed(pair: Pair) -> None:
    with pair.connect() as connection:
        with owned_by_a_process(pair.client, connection.client) as process:
            assert connection.client.fileno() == -1
            assert states(pair.server) == [TcpState.ESTABLISHED]
            assert process.kill() == -signal.SIGKILL
        assert connection.server.recv(1) == b""


def test_a_lab_bears_that_a_host_is_gone(pair: Pair, tap: Tap) -> None:
    with pair.connect() as connection:
        connection.client.close()
        pair.lab.settle()
        pair.client.close()
        assert pair.client.tcp_sockets() == []
        assert connection.server.recv(1) == b""
        pair.lab.settle()
        assert tap.of(connection.server)
        assert (
            list(Path(f"/proc/{pair.client.namespace.pid}").parent.glob(f"{pair.client.namespace.pid}")) == []
        )


def test_what_is_cut_stays_cut(pair: Pair) -> None:
    """A RST that nobody hears of: the other side is established for ever."""
    with pair.connect() as connection:
        cut(pair.client, pair.server)
        pair.client.destroy(connection.client)
        pair.lab.settle()
        assert states(pair.server) == [TcpState.ESTABLISHED]
        pair.server.destroy(connection.server)


@pytest.fixture(scope="session")
def impatience(object_loader: ObjectLoader) -> Iterator[Impatience]:
    with Impatience(object_loader) as loaded:
        yield loaded


def test_a_connect_without_an_answer_ends_soon(pair: Pair, impatience: Impatience) -> None:
    start = time.monotonic()
    with pair.listen() as listener, pair.client_socket() as sock, impatience.of(pair.lab):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        with Gate(pair.client, pair.server) as gate, pytest.raises(TimeoutError) as caught:
            pair.client.connect(
                pair.server.address(pair.family.version), listener.getsockname()[1], sock=sock
            )
        assert caught.value.errno == errno.ETIMEDOUT
        assert gate
    assert time.monotonic() - start < 3, "a patient one waits one second, and two more"


def test_a_patient_lab_waits_a_second(pair: Pair, impatience: Impatience) -> None:
    """What is impatient within a block is not so after it."""
    with impatience.of(pair.lab):
        pass
    with pair.client_socket() as sock, Gate(pair.client, pair.server):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        pair.client.begin_connect(pair.server.address(pair.family.version), 9, sock)
        with pytest.raises(AssertionError, match="SYN_SENT"):
            pair.lab.settle(deadline=0.05)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_a_vanished_client_leaves_no_socket(pair: Pair, tap: Tap, impatience: Impatience) -> None:
    version = pair.family.version
    source = nobodys_address(pair.client, version), 40000
    pair.server.namespace.sysctl({"net/ipv4/tcp_synack_retries": "1"})
    with pair.listen() as listener, impatience.of(pair.lab):
        there = pair.server.address(version), listener.getsockname()[1]
        inject(pair.client, [segment(source, there)])
        assert [each.op for each in tap if each.remote_port == 40000]
        pair.lab.settle()
        assert states(pair.server) == []
    assert Op.PASSIVE_ESTABLISHED not in {each.op for each in tap}


def test_a_segment_is_sent_as_it_is(pair: Pair) -> None:
    version = pair.family.version
    source = nobodys_address(pair.client, version), 40000
    before = pair.server.counters()
    inject(pair.client, [segment(source, (pair.server.address(version), 9), chksum=0xBAD)])
    counted = grown(before, pair.server.counters())
    assert counted["TcpInCsumErrors"] == 1
    assert "TcpOutRsts" not in counted


def test_a_refused_socket_connects_again(pair: Pair) -> None:
    address = pair.server.address(pair.family.version)
    with pair.listen() as listener:
        port = listener.getsockname()[1]
    with pair.client_socket() as sock:
        with pytest.raises(ConnectionRefusedError):
            pair.client.connect(address, port, sock=sock)
        with pair.server.listen(pair.family.listener, port):
            pair.client.connect(address, port, sock=sock)


def test_a_connect_that_began_ends(pair: Pair) -> None:
    with pair.listen() as listener, pair.client_socket() as sock:
        pair.client.begin_connect(pair.server.address(pair.family.version), listener.getsockname()[1], sock)
        pair.lab.eventually(lambda: TcpState.ESTABLISHED in states(pair.client))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_a_connect_that_cannot_begin(pair: Pair) -> None:
    with pair.client_socket() as sock, pytest.raises(OSError, match=r"connect client to \S+ port 9: E"):
        pair.client.begin_connect("224.0.0.1" if pair.family is not Family.V6 else "ff02::1", 9, sock)


def test_hooks_are_told_of_every_connect(pair: Pair) -> None:
    told: list[tuple[str, int]] = []
    pair.client.before_connect.append(lambda _sock, address, port: told.append((str(address), port)))
    address = pair.server.address(pair.family.version)
    with pair.listen() as listener, ExitStack() as stack:
        port = listener.getsockname()[1]
        for connect in (
            lambda sock: pair.client.connect(address, port, sock=sock),
            lambda sock: pair.client.begin_connect(address, port, sock),
            lambda sock: pair.client.connect_with(b"x", address, port, sock),
        ):
            connect(stack.enter_context(pair.client_socket()))
    assert told == [(str(address), port)] * 3


def test_an_address_more_is_only_for_who_binds_to_it(pair: Pair) -> None:
    version = pair.family.version
    first = pair.client.address(version)
    pair.client.add_address(ip_interface(f"{first + 8}/{24 if version == 4 else 64}"))
    assert first + 8 in pair.client.addresses
    with pair.connect() as connection:
        assert connection.tuple.src == first
    with pair.client_socket() as sock:
        prefix = "::ffff:" if pair.family is Family.MAPPED_CLIENT else ""
        sock.bind((f"{prefix}{first + 8}", 0))
        with pair.connect(sock) as connection:
            assert connection.tuple.src == first + 8


def test_counters_are_the_namespaces_own(pair: Pair) -> None:
    before = pair.client.counters(), pair.server.counters()
    with pair.connect():
        pass
    pair.lab.settle()
    client, server = grown(before[0], pair.client.counters()), grown(before[1], pair.server.counters())
    assert (client["TcpActiveOpens"], server["TcpPassiveOpens"]) == (1, 1)
    assert "TcpPassiveOpens" not in client
