"""Established: records, STATE flag, authorization"""

from __future__ import annotations

import ipaddress
import socket

import pytest

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Direction, Verdict
from testbed.kmesh.mesh import Mesh
from testbed.lab.family import Address, Family
from testbed.lab.pair import Pair
from testbed.observe.callbacks import CallbackFlag, Op
from testbed.observe.tap import Tap

INBOUND = (Direction.INBOUND, TcpState.ESTABLISHED)
OUTBOUND = (Direction.OUTBOUND, TcpState.ESTABLISHED)


def is_watched(tap: Tap, sock: socket.socket, op: Op) -> bool:
    """Whether the program left STATE_CB_FLAG set on the socket in the callback that established it.

    No other flag: each costs every such socket a callback more.
    """
    (callback,) = tap.of(sock, op)
    assert callback.flags in {CallbackFlag(0), CallbackFlag.STATE}
    return CallbackFlag.STATE in callback.flags


@pytest.mark.parametrize(
    ("client", "server", "expected"),
    [
        pytest.param(True, True, [OUTBOUND, INBOUND], id="both"),
        pytest.param(True, False, [OUTBOUND], id="client-only"),
        pytest.param(False, True, [INBOUND], id="server-only"),
        pytest.param(False, False, [], id="none"),
    ],
)
def test_who_is_managed_is_observed(
    pair: Pair,
    mesh: Mesh,
    tap: Tap,
    client: bool,
    server: bool,
    expected: list[tuple[Direction, TcpState]],
) -> None:
    """record, flag, request where managed"""
    mesh.manage(*[pair.client] * client, *[pair.server] * server)
    with pair.connect() as connection:
        pair.lab.settle()
        assert [record.event for record in mesh.observed] == expected
        assert is_watched(tap, connection.client, Op.ACTIVE_ESTABLISHED) == client
        assert is_watched(tap, connection.server, Op.PASSIVE_ESTABLISHED) == server
        assert [request.tuple for request in mesh.auth_requests] == [connection.tuple] * server


def test_the_outbound_record(pair: Pair, mesh: Mesh) -> None:
    """OUTBOUND: tuple, and the address asked for"""
    mesh.manage(pair.client)
    with pair.connect() as connection:
        (record,) = mesh.observed
        assert record.tuple == connection.tuple
        assert record.orig_dst == (connection.tuple.dst, connection.tuple.dport)
        assert record.conn_success
        assert record.protocol == socket.IPPROTO_TCP
        assert record.received_bytes == 0


def test_the_inbound_record(pair: Pair, mesh: Mesh) -> None:
    """INBOUND: tuple client → server, no address asked"""
    mesh.manage(pair.server)
    with pair.connect() as connection:
        (record,) = mesh.observed
        assert record.tuple == connection.tuple
        assert record.orig_dst is None
        assert record.conn_success
        assert record.protocol == socket.IPPROTO_TCP


def test_the_record_is_there_when_connect_returns(pair: Pair, mesh: Mesh) -> None:
    """reported before accept() returns"""
    mesh.manage(pair.client, pair.server)
    with pair.listen() as listener:
        address = pair.server.address(pair.family.version)
        with pair.client.connect(address, listener.getsockname()[1]):
            pair.lab.settle()
            assert sorted(record.event for record in mesh.observed) == [INBOUND, OUTBOUND]
            assert len(mesh.auth_requests) == 1


def test_a_stale_value_is_not_managed(pair: Pair, mesh: Mesh) -> None:
    """present with another value than 0: not managed"""
    for host in (pair.client, pair.server):
        mesh.managed.set_value(host.address(pair.family.version), 1)
    with pair.connect():
        pair.lab.settle()
        assert not mesh.reports()
        assert not mesh.auth_requests


def test_managed_in_the_other_family_only(pair: Pair, mesh: Mesh) -> None:
    """managed in the other IP version only: nothing"""
    other = 4 if pair.family.version == 6 else 6
    mesh.manage(pair.client.address(other), pair.server.address(other))
    with pair.connect():
        pair.lab.settle()
        assert not mesh.reports()
        assert not mesh.auth_requests


def test_enrolled_by_the_control_address(pair: Pair, mesh: Mesh) -> None:
    """enrolled, connected, removed, connected again"""
    mesh.enrol(pair.client, pair.family)
    mesh.enrol(pair.server, pair.family)
    with pair.connect() as first:
        assert [record.event for record in mesh.observed_of(first.tuple)] == [OUTBOUND, INBOUND]
        mesh.remove(pair.client, pair.family)
        mesh.remove(pair.server, pair.family)
        with pair.connect() as second:
            pair.lab.settle()
            assert mesh.observed_of(second.tuple) == []


def test_no_records_without_monitoring(pair: Pair, mesh: Mesh, tap: Tap) -> None:
    """monitoring off: no records, still a request"""
    mesh.config.monitoring = False
    mesh.manage(pair.client, pair.server)
    with pair.connect() as connection:
        assert [request.tuple for request in mesh.authorize(lambda _request: Verdict.DENY)] == [
            connection.tuple
        ]
        assert is_watched(tap, connection.client, Op.ACTIVE_ESTABLISHED)
        assert is_watched(tap, connection.server, Op.PASSIVE_ESTABLISHED)
    pair.lab.settle()
    assert not mesh.reports()
    assert not mesh.verdicts


@pytest.mark.parametrize("name", ["node_ip", "pod_gateway"])
def test_probes_of_the_node_are_exempt(pair: Pair, mesh: Mesh, tap: Tap, name: str) -> None:
    """probe of the node: exempt"""
    setattr(mesh.config, name, pair.client.address(pair.family.version))
    mesh.manage(pair.server)
    with pair.connect() as connection:
        assert not is_watched(tap, connection.server, Op.PASSIVE_ESTABLISHED)
        pair.lab.settle()
    pair.lab.settle()
    assert not mesh.reports()
    assert not mesh.auth_requests


def near(address: Address) -> list[Address]:
    """Addresses that differ from one in one bit, at either end."""
    number = int(address)
    top = 1 << (address.max_prefixlen - 1)
    return [type(address)(number ^ bit) for bit in (1, top)]


@pytest.mark.parametrize("name", ["node_ip", "pod_gateway"])
def test_an_exemption_is_of_one_address(pair: Pair, mesh: Mesh, name: str) -> None:
    """nearly the exempt address: not exempt"""
    version = pair.family.version
    mesh.manage(pair.server)
    exempt = [*near(pair.client.address(version)), pair.client.address(4 if version == 6 else 6)]
    exempt.append(ipaddress.ip_address(pair.client.address(version).packed[::-1]))
    for address in exempt:
        setattr(mesh.config, name, address)
        with pair.connect() as connection:
            assert [record.event for record in mesh.observed_of(connection.tuple)] == [INBOUND], address
    assert len(mesh.auth_requests) == len(exempt)


def test_an_exemption_is_of_one_ip_version(pair: Pair, mesh: Mesh) -> None:
    """the same number in the other IP version: not exempt"""
    number = int(pair.client.address(4))
    if pair.family is Family.V6:
        # ::a.b.c.d and a.b.c.d are the same sixteen bytes in the program's variable
        exempt: Address = ipaddress.IPv4Address(number)
        source = str(ipaddress.IPv6Address(number))
        pair.client.run(["ip", "addr", "add", f"{source}/128", "dev", "eth0", "nodad"])
    else:
        exempt = ipaddress.IPv6Address((0xFD00 << 112) + number)
        source = pair.family.as_client(pair.client.address(4))
    mesh.config.node_ip = exempt
    mesh.manage(pair.server)
    with pair.client_socket() as sock:
        sock.bind((source, 0))
        with pair.connect(sock):
            assert [record.event for record in mesh.observed] == [INBOUND]


@pytest.mark.families("v6")
@pytest.mark.topology("words.yaml")
def test_ipv6_addresses_of_every_kind(pair: Pair, mesh: Mesh) -> None:
    """IPv6 addresses, some like mapped ones: told as they are"""
    mesh.manage(pair.client, pair.server)
    with pair.listen() as listener:
        for source, target in zip(pair.client.addresses, pair.server.addresses, strict=True):
            with pair.client_socket() as sock:
                sock.bind((str(source), 0))
                pair.client.connect(target, listener.getsockname()[1], sock=sock)
                listener.accept()[0].close()
    pair.lab.settle()
    expected = set(zip(pair.client.addresses, pair.server.addresses, strict=True))
    assert {(request.tuple.src, request.tuple.dst) for request in mesh.auth_requests} == expected


def in_one_word(address: Address) -> list[Address]:
    """Addresses that differ in one bit: for each of the four words one that is set, one that is not."""
    number, near = int(address), []
    for word in range(4):
        bits = [1 << (32 * word + bit) for bit in range(32)]
        near += [number ^ next(bit for bit in bits if bool(number & bit) is isset) for isset in (True, False)]
    return [ipaddress.IPv6Address(each) for each in near]


@pytest.mark.families("v6")
@pytest.mark.topology("words.yaml")
@pytest.mark.parametrize("name", ["node_ip", "pod_gateway"])
def test_an_exemption_is_of_all_four_words(pair: Pair, mesh: Mesh, name: str) -> None:
    """exempt: the same in each word, not in three"""
    mesh.manage(pair.server)
    every_word, *others = pair.client.addresses
    exempt = [(address, address) for address in pair.client.addresses]
    not_exempt = [(every_word, near) for near in in_one_word(every_word)]
    with pair.listen() as listener:
        for source, address in [*exempt, *not_exempt]:
            setattr(mesh.config, name, address)
            with pair.client_socket() as sock:
                sock.bind((str(source), 0))
                pair.client.connect(pair.server.address(6), listener.getsockname()[1], sock=sock)
                listener.accept()[0].close()
            pair.lab.settle()
            assert len(mesh.auth_requests) == (0 if source == address else 1), f"{source}, {address} exempt"
            mesh.auth_requests.clear()
    assert len(others) > 5


def test_udp_is_left_alone(pair: Pair, mesh: Mesh) -> None:
    """connect() of a UDP socket: no storage, no record"""
    mesh.manage(pair.client, pair.server)
    with pair.client.socket(pair.family.client, socket.SOCK_DGRAM) as sock:
        sock.connect((pair.family.as_client(pair.server.address(pair.family.version)), 9))
        assert sock not in mesh.storage
    assert not mesh.reports()
