"""A program set under pressure: what is lost is counted, what is full stays so, nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.errors import TestbedError, UsageError
from testbed.kernel.cgroup import processes
from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Direction
from testbed.kmesh.layouts import Layout
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.profile import load_profile
from testbed.kmesh.records import ObserveRecord
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.pressure.driver import Workers
from testbed.pressure.maps import fill
from testbed.pressure.result import Result
from testbed.pressure.rings import BatchRing
from tests.pressure import AUTH, E2BIG, MANAGED, OBSERVE, ROOMY, SOCKHASH, VERDICTS, Press, pressing


@pytest.fixture(scope="module")
def press(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Press]:
    with pressing(tmp_path_factory.mktemp("objects")) as made:
        yield made


def counts(result: Result, role: str) -> tuple[int | None, int, int | None]:
    ring = result.ring(role)
    assert ring.produced == ring.received
    return ring.expected, ring.received, ring.lost


@pytest.mark.parametrize("way", [Family.V4, Family.V6, Family.MAPPED])
def test_full_speed(press: Press, way: Family) -> None:
    result = press(1000, ROOMY, family=way, verdicts=True)
    assert result.problems() == []
    assert (result.opened, result.accepted, result.whole) == (1000, 1000, 1000)
    assert counts(result, "observe") == (4000, 4000, 0)
    assert counts(result, "auth_requests") == (1000, 1000, 0)
    assert (result.verdicts.written, result.verdicts.refused) == (1000, {})
    assert result.verdicts.left == result.verdicts.late
    assert sum(each.opened for each in result.without) == 1000
    kernel = result.kernel["client"]["TcpActiveOpens"], result.kernel["server"]["TcpPassiveOpens"]
    assert kernel == (1000, 1000)
    before, after = ({each.name: getattr(each, when) for each in result.maps} for when in ("before", "after"))
    assert before == {**after, VERDICTS: 0}
    assert after[VERDICTS] == result.verdicts.left


@pytest.mark.long
def test_a_hundred_thousand(press: Press) -> None:
    """``testbed load --connections 100000 --verdicts``, with rings that lose nothing on a busy machine."""
    result = press(100_000, {AUTH: 1 << 23, OBSERVE: 1 << 26}, verdicts=True)
    assert result.problems() == []
    assert (result.opened, result.whole, result.verdicts.written) == (100_000, 100_000, 100_000)


def test_a_consumer_that_stalls(press: Press) -> None:
    """What comes first is in the rings, the rest is lost, and the program says so until it cannot."""
    result = press(2000, stalled=frozenset({"observe", "auth_requests", "log"}), concurrency=1)
    assert result.problems() == []
    assert result.whole is not None
    assert 0 < result.whole <= 1927 // 4
    assert counts(result, "observe") == (8000, 1927, 8000 - 1927)
    assert counts(result, "auth_requests") == (2000, 85, 1915)
    assert counts(result, "log") == (1915, 963, 952)
    assert result.complaints == {"authorize: the request ring is full": 963}


def test_what_a_full_ring_holds_is_the_first(press: Press) -> None:
    result = press(2000, stalled=frozenset({"observe"}), sizes={AUTH: 1 << 20}, concurrency=200)
    assert result.problems() == []
    spec = load_profile("main").records.observe
    assert spec is not None
    layout = Layout.of(spec, "")
    records = [ObserveRecord.decode(data, layout, "little") for data in result.first_records]
    for direction in Direction:
        mine = [each for each in records if each.direction is direction]
        ports = {
            state: [each.tuple.sport for each in mine if each.state is state]
            for state in (TcpState.ESTABLISHED, TcpState.CLOSE)
        }
        opened, closed = ports[TcpState.ESTABLISHED], ports[TcpState.CLOSE]
        # those of the first slice, 400 connections, are all there; closes of two CPUs may overtake each other
        assert opened[:400] == list(result.first_ports)
        assert set(opened[:400]) <= set(closed)
        assert len(set(closed)) == len(closed)
    assert counts(result, "auth_requests") == (2000, 2000, 0)


def test_the_program_says_what_it_could_not_ask(press: Press) -> None:
    result = press(900, stalled=frozenset({"auth_requests"}), sizes={OBSERVE: 1 << 22})
    assert result.problems() == []
    assert counts(result, "auth_requests") == (900, 85, 815)
    assert result.complaints == {"authorize: the request ring is full": 815}
    assert counts(result, "observe") == (3600, 3600, 0)


def test_verdicts_that_come_too_late(press: Press) -> None:
    """They are for connections that have closed, and nobody deletes them: that is told, and no fault."""
    result = press(300, {OBSERVE: 1 << 22}, stalled=frozenset({"auth_requests"}), verdicts=True)
    assert result.problems() == []
    verdicts = result.verdicts
    assert (verdicts.written, verdicts.left, verdicts.late, verdicts.untold) == (85, 85, 85, 0)


def test_verdicts_of_connections_that_nobody_reported(press: Press) -> None:
    both = frozenset({"auth_requests", "observe"})
    result = press(300, {OBSERVE: 4096}, stalled=both, verdicts=True, concurrency=100)
    verdicts = result.verdicts
    assert result.problems() == []
    assert (verdicts.written, verdicts.left, verdicts.late, verdicts.untold) == (85, 85, 0, 85)


def test_a_stranger_that_goes_is_missed(press: Press, lab: Lab) -> None:
    with ExitStack() as stack:
        subject = stack.enter_context(press.subject({VERDICTS: 3}))
        verdicts = subject.program_set.maps[VERDICTS]
        verdicts.set(bytes(36), bytes(4))
        strangers = fill(verdicts, lab["client"], stack)
        assert (len(strangers.keys), strangers.left(), len(list(verdicts))) == (2, 2, 3)
        verdicts.delete(strangers.keys[0])
        assert strangers.left() == 1


def test_room_for_one_verdict(press: Press) -> None:
    result = press(1000, {**ROOMY, VERDICTS: 1}, verdicts=True)
    assert result.problems() == []
    assert result.verdicts.refused.keys() == {E2BIG}
    assert result.verdicts.written + result.verdicts.refused[E2BIG] == 1000
    assert result.verdicts.left <= 1


def test_no_room_for_verdicts(press: Press) -> None:
    result = press(500, ROOMY, verdicts=True, full=(VERDICTS,))
    assert result.problems() == []
    assert (result.verdicts.written, result.verdicts.refused) == (0, {E2BIG: 500})
    (verdicts,) = [each for each in result.maps if each.name == VERDICTS]
    assert (verdicts.strangers, verdicts.strangers_left, verdicts.after) == (8192, 8192, 8192)
    assert result.whole == 500


@pytest.mark.parametrize(
    ("sizes", "full", "hosts"), [({}, (MANAGED,), 0), ({MANAGED: 1}, (), 1), ({MANAGED: 2}, (), 2)]
)
def test_no_room_for_hosts(press: Press, sizes: dict[str, int], full: tuple[str, ...], hosts: int) -> None:
    result = press(200, {**ROOMY, **sizes}, full=full)
    assert result.problems() == []
    assert (result.client_managed, result.server_managed) == (hosts >= 1, hosts >= 2)
    refusal = {f"enrol: the managed map was not updated: {E2BIG}": 2 - hosts}
    assert result.complaints == (refusal if hosts < 2 else {})
    assert counts(result, "observe") == (400 * hosts, 400 * hosts, 0)
    assert result.managed_left == 0


@pytest.mark.parametrize(("size", "full"), [(8192, ()), (64, (SOCKHASH,)), (1, ())])
def test_the_sockhash(press: Press, size: int, full: tuple[str, ...]) -> None:
    """A socket that finds no room in it connects as well, and is observed."""
    result = press(500, {**ROOMY, SOCKHASH: size}, waypoint=True, full=full, concurrency=10)
    assert result.problems() == []
    assert (result.whole, result.sockhash_left) == (500, 0)
    refused = result.complaints.get(f"waypoint: the socket was not put into the sockhash: {E2BIG}", 0)
    assert sum(result.complaints.values()) == refused
    assert refused == {8192: 0, 64: 500}.get(size, refused)
    assert size > 1 or 0 < refused < 500


def test_data_flows_past_a_full_sockhash(press: Press, lab: Lab) -> None:
    """The second socket does not fit: it connects, and its payload is untouched."""
    with ExitStack() as stack:
        subject = stack.enter_context(press.subject({SOCKHASH: 1}))
        mesh = stack.enter_context(Mesh(subject.program_set, lab))
        pair = Pair(lab)
        mesh.manage(pair.client)
        for metadata in (True, False):
            sock = stack.enter_context(pair.client_socket())
            mesh.via_waypoint(sock)
            connection = stack.enter_context(pair.connect(sock))
            sock.sendall(b"payload")
            expected = mesh.waypoint_metadata(connection.tuple) * metadata + b"payload"
            assert connection.server.recv(100) == expected
        (event,) = mesh.log
        assert str(event) == "waypoint: the socket was not put into the sockhash (ret -7)"
        assert len(mesh.sockhash) == 1


def test_connects_that_fail_are_told(lab: Lab) -> None:
    """Ten ports: the eleventh client finds none, as long as the others are in TIME_WAIT."""
    with Workers(lab, Family.V4, concurrency=5) as workers:
        lab["client"].namespace.sysctl({"net/ipv4/ip_local_port_range": "2000 2009"})
        made = workers.run(30, ports=3)
        assert (made.opened, made.accepted, made.connect_errors) == (10, 10, {"EADDRNOTAVAIL": 20})
        assert set(made.ports) < set(range(2000, 2010))
        assert len(made.ports) == 3
        workers.settle()
        assert workers.kernel_counts()["server"]["TcpPassiveOpens"] == 10


@pytest.mark.parametrize("host", ["client", "server"])
def test_a_worker_that_ends_is_told(lab: Lab, host: str) -> None:
    with Workers(lab, Family.V4, concurrency=5) as workers:
        workers.run(1)
        (pid,) = processes_of(lab, host, b"pressure.worker")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(TestbedError, match=f"the {host}'s process has ended: SIGKILL"):
            workers.run(1)


def processes_of(lab: Lab, host: str, words: bytes) -> list[int]:
    found = processes(lab.cgroup_path / host)
    return [pid for pid in found if words in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_too_many_open_connections(lab: Lab) -> None:
    with pytest.raises(UsageError, match=r"open 99999999 connections at a time: .*ulimit -Hn"):
        Workers(lab, Family.V4, concurrency=99999999)


def test_a_batch_ring_takes_records_of_other_sizes(press: Press, lab: Lab) -> None:
    with ExitStack() as stack:
        subject = stack.enter_context(press.subject({}))
        mesh = stack.enter_context(Mesh(subject.program_set, lab))
        pair = Pair(lab)
        mesh.manage(pair.client, pair.server)
        ring = subject.program_set.maps[OBSERVE]
        for size in (128, 64):
            batches = stack.enter_context(BatchRing(ring, size))
            for _ in range(300):  # more than a batch
                pair.connect().close()
            lab.settle()
            records = [record for batch in batches.read() for record in batch]
            assert {len(record) for record in records} == {128}
            assert (len(records), batches.received) == (1200, 1200)
