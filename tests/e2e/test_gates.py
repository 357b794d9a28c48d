"""Gates on a link: which segments they take, what they tell, and that nothing is left of them."""

from __future__ import annotations

import socket
import typing
from contextlib import ExitStack

import pytest

from testbed.errors import EventsLost, UsageError, WaitExpired
from testbed.gates import Ack, Any, Data, Fin, GateProgram, HoldGate, Link, Rst, SegmentKind, Syn, SynAck
from testbed.gates.kinds import PSH, flag_names
from testbed.gates.link import Which
from testbed.kernel.counters import grown
from testbed.kernel.offload import offloads_checksums
from testbed.kernel.rto import set_min_rto
from testbed.kernel.sockdiag import TcpState
from testbed.lab.bench import Bench
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.lab.segments import inject, nobodys_address, segment
from testbed.lab.sockets import reset


def states(host: Host) -> list[TcpState]:
    return [each.state for each in host.tcp_sockets() if each.state is not TcpState.LISTEN]


def begin(pair: Pair, listener: socket.socket, sock: socket.socket) -> None:
    pair.client.begin_connect(pair.server.address(pair.family.version), listener.getsockname()[1], sock)


def test_what_is_lost_never_arrives(pair: Pair, link: Link) -> None:
    with pair.connect() as connection, link.hold(Rst) as resets:
        reset(connection.client)
        resets.seen()
        assert resets.lose() == 1
        assert resets.held == []
        resets.close()
        pair.lab.settle()
        assert states(pair.server) == [TcpState.ESTABLISHED]
        assert [each.verb for each in link.log] == ["held", "lost"]
        reset(connection.server)


def test_the_last_gate_has_it(pair: Pair, link: Link) -> None:
    with link.let_pass(Any) as others, link.let_pass(Data, nth=2) as second, link.let_pass(Fin) as fins:
        with pair.connect() as connection:
            for word in (b"1", b"2", b"3"):
                connection.client.sendall(word)
                connection.server.recv(1)
        pair.lab.settle()
        assert (second.count, fins.count) == (1, 2)
        flags = [each.words.split(",")[0] for each in others.matches]
        assert flags.count("passed PSH ACK") == 2
        assert flags[:3] == ["passed SYN", "passed SYN ACK", "passed ACK"]


KINDS = [
    (Syn, ["SYN"]),
    (SynAck, ["SYN ACK"]),
    (Data, ["PSH ACK", "PSH ACK"]),
    (Fin, ["FIN ACK", "FIN ACK"]),
    (Rst, []),
    (SegmentKind("PshOfOne", mask=PSH, flags=PSH, payload=True), ["PSH ACK", "PSH ACK"]),
]


@pytest.mark.families("v4", "v6")
@pytest.mark.parametrize(("kind", "flags"), KINDS, ids=str)
def test_kinds(pair: Pair, link: Link, kind: SegmentKind, flags: list[str]) -> None:
    with link.let_pass(Ack) as acks, link.let_pass(kind) as gate:
        with pair.connect() as connection:
            for one, other in (
                (connection.client, connection.server),
                (connection.server, connection.client),
            ):
                one.sendall(b"x")
                assert other.recv(1) == b"x"
        pair.lab.settle()
        assert [flag_names(each.flags) for each in gate.matches] == flags
        assert {(flag_names(each.flags), each.payload) for each in acks.matches} == {("ACK", 0)}


def test_what_comes_at_the_end_of_the_block_arrives(
    pair: Pair, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if nothing was held yet when the end began."""
    monkeypatch.setattr(HoldGate, "release", lambda _: None)
    with pair.connect() as connection, link.drop(Data):
        with link.hold(Data, nth=1) as data:
            connection.client.sendall(b"late")
            data.seen()
        assert connection.server.recv(100) == b"late"


def test_directions_and_ports(pair: Pair, link: Link) -> None:
    with pair.listen() as listener, ExitStack() as stack:
        port = listener.getsockname()[1]
        gates = [
            stack.enter_context(link.let_pass(Syn, port=port)),
            stack.enter_context(link.let_pass(Any, port=port ^ 1)),
            stack.enter_context(link.let_pass(Fin, sender="client", to="server")),
            stack.enter_context(link.let_pass(Fin, to="client")),
            stack.enter_context(link.let_pass(SynAck, sender="client")),
        ]
        with pair.connect(listener=listener) as connection:
            pass
        pair.lab.settle()
        assert [gate.count for gate in gates] == [1, 0, 1, 1, 0]
        (syn,) = gates[0].matches
        assert (syn.tuple, syn.sender, syn.to) == (connection.tuple, "client", "server")
        (fin,) = gates[3].matches
        assert (fin.tuple, fin.sender, fin.to) == (connection.tuple.reversed, "server", "client")


@pytest.mark.families("v4")
def test_what_a_gate_says(pair: Pair, link: Link) -> None:
    with link.hold(Fin, sender="client") as fins, pytest.raises(WaitExpired) as caught:
        pair.lab.eventually(lambda: False, deadline=0)
    assert "gates:\n    hold(Fin, sender=client): 0 matches" in str(caught.value)
    set_min_rto(pair.client.namespace.route, pair.client.ends[0], 10_000)  # it is held once
    with pair.connect() as connection, link.hold(Fin, sender="client") as fins:
        connection.client.close()
        (fin,) = fins.seen()
        with pytest.raises(UsageError, match=r"release 2 segments of hold\(Fin, sender=client\): it holds 1"):
            fins.release(2)
    assert str(fin) == (
        f"held FIN ACK, 1st of hold(Fin, sender=client): client {connection.tuple.src}:"
        f"{connection.tuple.sport} → server {connection.tuple.dst}:{connection.tuple.dport},"
        f" seq {fin.seq}, ack {fin.ack}"
    )
    assert [(each.verb, each.seq) for each in link.log] == [("held", fin.seq), ("released", fin.seq)]
    assert link.log[0].time_ns < link.log[1].time_ns


def test_a_wait_says_what_it_awaited(link: Link) -> None:
    with link.drop(SynAck, nth=2) as gate, pytest.raises(WaitExpired) as caught:
        gate.seen(3, deadline=0.01)
    assert "3 segments at drop(SynAck, nth=2); there were 0" in str(caught.value)


@pytest.mark.parametrize("wrong", [{}, {"chksum": 0xBAD}], ids=["right", "wrong"])
def test_a_checksum_stays_as_it_was(pair: Pair, link: Link, wrong: dict[str, typing.Any]) -> None:
    """Also one that no device was left to fill in."""
    version = pair.family.version
    before = pair.server.counters()
    with link.hold(Syn) as syns:
        ends = (nobodys_address(pair.client, version), 40000), (pair.server.address(version), 9)
        inject(pair.client, [segment(*ends, **wrong)])
        syns.seen()
    counted = grown(before, pair.server.counters())
    assert counted.get("TcpInCsumErrors", 0) == len(wrong)
    assert counted.get("TcpOutRsts", 0) == 1 - len(wrong)


def test_data_with_its_checksum_is_held(pair: Pair, link: Link) -> None:
    before = pair.server.counters()
    with pair.connect() as connection, link.corrupt(Rst), link.hold(Data) as data:
        connection.client.sendall(b"whole")
        data.seen()
        data.release()
        assert connection.server.recv(100) == b"whole"
    assert "TcpInCsumErrors" not in grown(before, pair.server.counters())


def test_what_is_dropped_has_crossed_the_wire(pair: Pair, link: Link) -> None:
    """Packet sockets at both ends have seen it."""
    socks = [host.socket(socket.AF_PACKET, socket.SOCK_RAW) for host in (pair.client, pair.server)]
    with pair.listen() as listener, pair.client_socket() as sock:
        for each, host in zip(socks, (pair.client, pair.server), strict=True):
            each.bind((host.ends[0].name, 3))
            each.settimeout(2)
        with link.drop(Syn) as lost:
            begin(pair, listener, sock)
            lost.seen()
            assert socks[0].recv(2000) == socks[1].recv(2000)
    for each, host in zip(socks, (pair.client, pair.server), strict=True):
        host.namespace.let_go(each)


BAD = [
    ({"nth": 0}, "the first one is nth=1"),
    ({"sender": "nobody"}, "nobody is no end of <Link client – server>"),
    ({"sender": "client", "to": "client"}, "nobody sends to itself"),
    ({"port": 65536}, "that is no port"),
]


@pytest.mark.parametrize(("which", "why"), BAD)
def test_gates_that_make_no_sense(link: Link, which: Which, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        link.drop(Any, **which)


def test_a_link_needs_two_neighbours(link: Link) -> None:
    with pytest.raises(UsageError, match="no link joins them"):
        link.between("client", "nobody")


def test_sixteen_gates_and_no_more(link: Link) -> None:
    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(link.let_pass(Any))
        with pytest.raises(UsageError, match="16 are there"):
            link.drop(Any)


def test_one_lab_at_a_time(bench: Bench, lab: Lab, gate_program: GateProgram) -> None:
    with (
        Lab(bench, lab.topology) as other,
        Link(lab, gate_program) as here,
        Link(other, gate_program) as away,
    ):
        with here.drop(Any), pytest.raises(UsageError, match="gates in another lab"):
            away.drop(Any)
        away.drop(Any)


def test_nothing_is_left_of_a_gate(pair: Pair, link: Link) -> None:
    def left() -> list[object]:
        tc = [host.run(["tc", "qdisc", "show"]).stdout for host in (pair.client, pair.server)]
        with pair.client.socket() as sock:
            return [*tc, offloads_checksums(sock, "eth0"), list(pair.lab.witnesses)]

    before = left()
    with link.corrupt(Data), link.hold(Fin):
        assert left() != before
    assert left() == before


def test_a_full_ring_is_told(pair: Pair, link: Link) -> None:
    """Segments to nobody, more than the ring has room for."""
    version = pair.family.version
    ends = [(nobodys_address(pair.client, version), 1), (nobodys_address(pair.client, version), 2)]
    from scapy.layers.l2 import Ether

    end = pair.client.ends[0]
    frame = bytes(Ether(src=end.mac, dst=end.mac) / segment(*ends) / bytes(1400))
    sock = pair.client.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((end.name, 0))
    gate = link.hold(Syn)
    for _ in range(6000):
        sock.send(frame)
    with pytest.raises(EventsLost, match=r"the gates lost \d+ segments"):
        gate.seen()
    with pytest.raises(EventsLost):
        gate.close()
    pair.client.namespace.let_go(sock)
    pair.connect().close()


def test_a_host_that_is_gone(pair: Pair, link: Link) -> None:
    connection = pair.connect()
    with link.hold(Fin) as fins:
        connection.close()
        fins.seen()
        pair.server.close()
    assert {each.verb for each in link.log} == {"held", "lost"}


@pytest.mark.topology("routed")
def test_a_link_of_several(lab: Lab, gate_program: GateProgram) -> None:
    """A segment that is forwarded crosses two links."""
    names = list(lab.hosts)
    pair = Pair(lab)
    with Link(lab, gate_program, names[0], names[1]) as link, ExitStack() as stack:
        far = link.between(names[1], names[2])
        syns = [stack.enter_context(each.hold(Syn)) for each in (link, far)]
        with pair.listen() as listener, pair.client_socket() as sock:
            begin(pair, listener, sock)
            syns[0].seen()
            assert syns[1].count == 0
            syns[0].release()
            syns[1].seen()
            syns[1].release()
            listener.accept()[0].close()
        assert [each.to for each in far.log] == [names[2]] * 2


@pytest.mark.topology("bridge")
def test_a_link_to_a_bridge(lab: Lab, gate_program: GateProgram) -> None:
    """A bridge takes no frame whose source is a group: what was held is as it was before."""
    one, other = lab["pod-1"], lab["pod-2"]
    with Link(lab, gate_program, "pod-1", "node") as link, other.listen() as listener, one.socket() as sock:
        link.drop(Syn)
        first = link.hold(Syn, nth=1)
        one.begin_connect(other.address(4), listener.getsockname()[1], sock)
        first.seen()
        first.release()
        listener.accept()[0].close()
