"""Limits: what is full, lost or missing"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import ExitStack
from typing import Any

import pytest

from testbed.bpf.kinds import ProgramKind
from testbed.kernel.sockdiag import TcpState
from testbed.kernel.syscalls import disconnect
from testbed.kmesh.abi import Absent, Direction
from testbed.kmesh.catalogue.stage import await_connected
from testbed.kmesh.log_event import LogEvent
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.oracle.oracle import Oracle
from testbed.kmesh.records import Storage
from testbed.kmesh.views import Stream
from testbed.lab.gate import Gate
from testbed.lab.pair import Pair
from testbed.lab.payload import difference
from testbed.lab.sockets import reset
from testbed.observe.callbacks import Op
from testbed.observe.tap import Tap

PAYLOAD = b"GET / HTTP/1.1\r\n\r\n"
_RING_HEADER = 8  # ahead of each record in a ring buffer


def told(mesh: Mesh) -> list[LogEvent]:
    """What the program has logged, in words that can be read; taken off the log.

    What ``ret`` is the contract leaves open: an errno here, the length of the words there.
    """
    events = list(mesh.log)
    mesh.log.clear()
    for event in events:
        assert event.message, "an event without a word"
        assert event.message.isprintable(), event
        assert -4096 < event.ret < 256, event
        assert not any(event.unused), f"{event}: what follows it is not zero: {event.unused.hex()}"
    return events


def test_a_lost_segment_is_counted(pair: Pair, mesh: Mesh, tap: Tap) -> None:
    """a segment lost and sent again: both counted"""
    mesh.manage(pair.client)
    with pair.connect() as connection, Gate(pair.client, pair.server) as gate:
        client = connection.client
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(6):
            client.send(PAYLOAD)
        gate.pass_on(lost=1)
        while not lost_and_sent_again(client):
            gate.pass_on()
        reset(client)
        (closed,) = [each for each in tap if each.op is Op.STATE and each.change[1] is TcpState.CLOSE]
        assert closed.figures.total_retrans
        assert closed.figures.lost_out


def waiting_for(stream: Stream[Any]) -> select.poll:
    """Of what has come until now nothing is left to be waited for."""
    stream.read()
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    return poll


def lost_and_sent_again(sock: socket.socket) -> bool:
    """Both are counted: tcpi_lost and tcpi_total_retrans of struct tcp_info.

    Where the probe of a lost tail is first, its segment is sent again before any counts as lost.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    lost, retransmitted = (struct.unpack_from("=I", info, at)[0] for at in (32, 100))
    return bool(lost and retransmitted)


def test_a_full_ring_of_requests(pair: Pair, mesh: Mesh, oracle: Oracle) -> None:
    """request ring full: the log says so, connections live"""
    ring = mesh.profile.map_name("auth_requests")
    assert ring is not None
    room = mesh.programs.maps[ring].max_entries // (mesh.profile.records.auth_request.size + _RING_HEADER)
    mesh.manage(pair.server)
    poll = waiting_for(mesh.log)
    with ExitStack() as stack, pair.listen() as listener:
        for _ in range(room + 1):
            stack.callback(mesh.reports)  # that ring is not to be full
            stack.enter_context(pair.connect(listener=listener))
            mesh.reports()
        assert len(mesh.auth_requests) == room
        assert poll.poll(2000), "who waits for the log was not woken"
        assert len(told(mesh)) == 1
        oracle.excuse("request: missing")


@pytest.mark.families("v4")
def test_a_full_managed_map(pair: Pair, mesh: Mesh, oracle: Oracle) -> None:
    """managed map full: nobody is thrown out, the log says so"""
    name = mesh.profile.map_name("managed")
    assert name is not None
    there = mesh.programs.maps[name]
    with ExitStack() as stack:
        stack.callback(there.clear)
        for number in range(1, there.max_entries + 1):
            there.set(number.to_bytes(there.key_size, "big"), bytes(there.value_size))
        mesh.enrol(pair.client, pair.family)
        assert pair.client.address(4) not in mesh.managed
        assert sum(1 for _ in there) == there.max_entries
        assert told(mesh)
    oracle.excuse("managed map: missing")


def test_a_socket_cannot_be_in_the_sockhash_again(pair: Pair, mesh: Mesh, oracle: Oracle) -> None:
    """reconnected via a waypoint: in the sockhash, or told"""
    if not mesh.has(ProgramKind.SK_MSG):
        raise Absent("the set has no sk_msg program: only with one a socket is refused")
    mesh.manage(pair.client)
    with pair.listen() as listener, pair.client_socket() as sock:
        mesh.via_waypoint(sock)
        pair.connect(sock, listener=listener).server.close()
        disconnect(sock.fileno())
        pair.lab.settle()
        with pair.connect(sock, listener=listener) as connection:
            if connection.tuple not in mesh.sockhash:  # the kernel: EBUSY
                assert told(mesh)
                oracle.excuse("sockhash: missing")
        pair.lab.settle()


def test_storage_lost_in_the_handshake(pair: Pair, mesh: Mesh) -> None:
    """storage removed in the handshake: told, not reported"""
    mesh.manage(pair.client)
    with pair.listen() as listener, pair.client_socket() as sock:
        address = pair.server.address(pair.family.version)
        with Gate(pair.client, pair.server):
            pair.client.begin_connect(address, listener.getsockname()[1], sock)
            storage = mesh.storage[sock]
            del mesh.storage[sock]
        await_connected(sock)
        assert storage.direction != Direction.INBOUND
        assert not mesh.reports()
        assert told(mesh)


def test_a_connect_begins_anew(pair: Pair, mesh: Mesh) -> None:
    """used again: its storage has nothing of before"""
    mesh.profile.require("waypoint")
    mesh.manage(pair.client)
    with pair.listen() as listener, pair.client_socket() as sock:
        mesh.storage[sock] = Storage(via_waypoint=True, has_encoded=True, direction=Direction.INBOUND)
        with pair.connect(sock, listener=listener) as connection:
            storage = mesh.storage[sock]
            assert storage.asked_for == (connection.tuple.dst, connection.tuple.dport)
            assert (storage.via_waypoint, storage.has_encoded) == (True, False)
            assert storage.direction == Direction.OUTBOUND


def test_without_its_storage_nothing_is_written(pair: Pair, mesh: Mesh) -> None:
    """storage removed before the first send: payload alone"""
    mesh.manage(pair.client)
    with pair.client_socket() as sock:
        mesh.via_waypoint(sock)
        with pair.connect(sock) as connection:
            mesh.waypoint_metadata(connection.tuple)
            del mesh.storage[sock]
            sock.sendall(PAYLOAD)
            sock.shutdown(socket.SHUT_WR)
            assert not difference(connection.server.makefile("rb").read(), PAYLOAD)


@pytest.mark.parametrize("ring", ["observed", "auth_requests"])
def test_who_waits_is_woken(pair: Pair, mesh: Mesh, ring: str) -> None:
    """a record wakes who waits for it"""
    mesh.manage(pair.server)
    poll = waiting_for(getattr(mesh, ring))
    with pair.connect():
        assert poll.poll(2000), "a consumer that waits in epoll_wait() was not woken"


@pytest.mark.families("v4")
def test_maps_are_as_large_as_users_rely_on(pair: Pair, mesh: Mesh) -> None:  # noqa: ARG001
    """max_entries are the ABI's"""
    specs = {**mesh.profile.maps, **mesh.profile.optional_maps}
    expected = {
        spec.name: spec.entries
        for spec in specs.values()
        if spec.entries is not None and spec.name in mesh.programs.maps
    }
    if not expected:
        raise Absent(f"{mesh.profile.about}: its profile does not say how large maps are")
    assert {name: mesh.programs.maps[name].max_entries for name in expected} == expected


@pytest.mark.families("v4")
def test_settings_as_loaded(pair: Pair, mesh: Mesh, settings_as_loaded: dict[str, int]) -> None:  # noqa: ARG001
    """settings as loaded are the ABI's"""
    if not mesh.profile.defaults:
        raise Absent(f"{mesh.profile.about}: its profile does not say what its settings are when loaded")
    assert settings_as_loaded == mesh.profile.defaults
