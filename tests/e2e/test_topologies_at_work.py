"""Labs of more than two hosts at work, under the eyes of the oracle."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import permutations

import pytest

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Direction, Verdict
from testbed.kmesh.mesh import Mesh
from testbed.lab.family import Address, Family
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.lab.pair import Connection, Pair
from testbed.lab.wait import DEADLINE_S

OUTBOUND, INBOUND = Direction.OUTBOUND, Direction.INBOUND
_OF_A_CONNECTION = 3 + 2 + 3  # packets: handshake, a word each way, FINs and the last ACK
LIFE = (TcpState.ESTABLISHED, TcpState.CLOSE)


def meet(
    client: Host, server: Host, family: Family, *, source: Address | None = None, at: Address | None = None
) -> Connection:
    """A connection of two hosts, from and to an address that may be said."""
    with server.listen(family.listener) as listener, ExitStack() as undo:
        sock = undo.enter_context(client.socket(family.client))
        if source is not None:
            sock.bind((family.as_client(source), 0))
        port = listener.getsockname()[1]
        client.connect(at or server.address(family.version), port, sock=sock)
        accepted = undo.enter_context(listener.accept()[0])
        accepted.settimeout(DEADLINE_S)
        undo.pop_all()
        return Connection(sock, accepted)


def greet(connection: Connection) -> None:
    """A word each way."""
    for source, sink in ((connection.client, connection.server), (connection.server, connection.client)):
        source.sendall(b"hello")
        assert sink.recv(16) == b"hello"


def forwarded(host: Host, version: int) -> int:
    """How many packets it has forwarded."""
    if version == 4:
        return host.counters()["IpForwDatagrams"]
    lines = host.run(["cat", "/proc/net/snmp6"]).stdout.splitlines()
    return int(dict(line.split() for line in lines)["Ip6OutForwDatagrams"])


@pytest.mark.topology("two-node")
@pytest.mark.parametrize(
    ("managed", "sides"),
    [
        pytest.param(("a-1", "b-2"), (OUTBOUND, INBOUND), id="both"),
        pytest.param(("a-1",), (OUTBOUND,), id="client"),
        pytest.param(("b-2",), (INBOUND,), id="server"),
        pytest.param(("a-2", "b-1", "node-a", "node-b"), (), id="others"),
    ],
)
def test_a_pod_meets_one_of_the_other_node(
    lab: Lab, mesh: Mesh, family: Family, managed: tuple[str, ...], sides: tuple[Direction, ...]
) -> None:
    """Through both nodes, which report nothing of what they forward, managed or not."""
    mesh.manage(*(lab[name] for name in managed))
    nodes = [lab["node-a"], lab["node-b"]]
    before = [forwarded(node, family.version) for node in nodes]
    with meet(lab["a-1"], lab["b-2"], family) as connection:
        greet(connection)
    lab.settle()
    records = [(each.direction, each.state) for each in mesh.observed_of(connection.tuple)]
    assert sorted(records) == sorted((side, state) for side in sides for state in LIFE)
    assert len(mesh.observed) == len(records)
    assert [each.tuple for each in mesh.auth_requests] == [connection.tuple] * (INBOUND in sides)
    grown = [forwarded(node, family.version) - count for node, count in zip(nodes, before, strict=True)]
    assert min(grown) >= _OF_A_CONNECTION


@pytest.mark.topology("two-node")
@pytest.mark.parametrize(
    ("prober", "place", "exempt"),
    [
        pytest.param("node-a", 1, True, id="the gateway of the pod"),
        pytest.param("node-a", 0, True, id="the address of the node"),
        pytest.param("node-b", 0, False, id="the other node"),
        pytest.param("a-2", 0, False, id="a pod of the node"),
        pytest.param("b-1", 0, False, id="a pod of the other node"),
    ],
)
def test_who_probes_a_pod(
    lab: Lab, mesh: Mesh, family: Family, prober: str, place: int, exempt: bool
) -> None:
    """node_ip and pod_gateway are the node's own, as in a cluster: its probes are exempt, nobody else's."""
    node_ip, pod_gateway = addresses_of(lab["node-a"], family)
    mesh.config.node_ip, mesh.config.pod_gateway = node_ip, pod_gateway
    mesh.manage(lab["a-1"])
    source = addresses_of(lab[prober], family)[place]
    with meet(lab[prober], lab["a-1"], family, source=source) as connection:
        assert connection.tuple.src == source
        greet(connection)
        assert [each.direction for each in mesh.observed] == ([] if exempt else [INBOUND])
    lab.settle()
    expected = [] if exempt else [connection.tuple]
    assert [each.tuple for each in mesh.auth_requests] == expected
    assert [each.tuple for each in mesh.observed] == expected * 2


def addresses_of(host: Host, family: Family) -> list[Address]:
    """Those of an IP version: a node's on the link between the nodes, then that of its bridge."""
    return [address for address in host.addresses if address.version == family.version]


@pytest.mark.topology("two-node")
def test_a_probe_comes_from_the_gateway_by_itself(lab: Lab, mesh: Mesh, family: Family) -> None:
    """Not bound, a node's socket has the address of the bridge that the pod is on."""
    node = lab["node-a"]
    mesh.config.pod_gateway = addresses_of(node, family)[1]
    mesh.manage(lab["a-1"])
    with meet(node, lab["a-1"], family) as connection:
        assert connection.tuple.src == mesh.config.pod_gateway
    lab.settle()
    assert not mesh.auth_requests
    assert not mesh.reports()


@pytest.mark.topology("routed")
def test_records_have_the_ends_and_not_the_router(pair: Pair, mesh: Mesh) -> None:
    lab, version = pair.lab, pair.family.version
    mesh.manage(*lab.hosts.values())
    before = forwarded(lab["router"], version)
    with pair.connect() as connection:
        greet(connection)
        mesh.authorize(lambda _request: Verdict.ALLOW)
        assert set(mesh.verdicts) == {connection.tuple}
    lab.settle()
    ends = (pair.client.address(version), pair.server.address(version))
    tuples = [*(each.tuple for each in mesh.observed), *(each.tuple for each in mesh.auth_requests)]
    assert [(each.src, each.dst) for each in tuples] == [ends] * 5
    assert forwarded(lab["router"], version) - before >= _OF_A_CONNECTION


@pytest.mark.topology("bridge")
def test_three_pods_at_once(lab: Lab, mesh: Mesh, family: Family) -> None:
    """Each with both others, in both directions: twelve sides, and nobody's record is another's."""
    pods = [lab[f"pod-{number}"] for number in (1, 2, 3)]
    mesh.manage(*pods)
    with ExitStack() as stack:
        met = [stack.enter_context(meet(one, other, family)) for one, other in permutations(pods, 2)]
        for connection in met:
            connection.client.sendall(str(connection.tuple).encode())
        for connection in met:
            assert connection.server.recv(128).decode() == str(connection.tuple)
        assert {each.tuple for each in mesh.auth_requests} == {each.tuple for each in met}
        assert len({each.tuple for each in met}) == len(mesh.auth_requests) == 6
    lab.settle()
    for connection in met:
        sides = [(each.direction, each.state) for each in mesh.observed_of(connection.tuple)]
        assert sorted(sides) == sorted((side, state) for side in (INBOUND, OUTBOUND) for state in LIFE)
    assert len(mesh.observed) == 24
