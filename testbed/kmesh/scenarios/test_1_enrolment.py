"""Enrolment: connect to the control address"""

from __future__ import annotations

import ipaddress

from testbed.kmesh.mesh import Mesh
from testbed.lab.family import Family
from testbed.lab.pair import Pair


def own_address(pair: Pair) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return pair.client.address(pair.family.version)


def test_port_929_enrols(pair: Pair, mesh: Mesh) -> None:
    """port 929: the local address is managed"""
    mesh.enrol(pair.client, pair.family)
    assert set(mesh.managed) == {own_address(pair)}


def test_enrolling_again_changes_nothing(pair: Pair, mesh: Mesh) -> None:
    """enrolled twice: managed once"""
    mesh.enrol(pair.client, pair.family)
    mesh.enrol(pair.client, pair.family)
    assert set(mesh.managed) == {own_address(pair)}


def test_enrolling_overwrites_a_stale_value(pair: Pair, mesh: Mesh) -> None:
    """enrolled over a stale value: 0 again"""
    mesh.managed.set_value(own_address(pair), 7)
    assert own_address(pair) not in mesh.managed
    mesh.enrol(pair.client, pair.family)
    assert mesh.managed.value(own_address(pair)) == 0


def test_port_930_removes(pair: Pair, mesh: Mesh) -> None:
    """port 930: the local address is gone"""
    mesh.enrol(pair.client, pair.family)
    mesh.remove(pair.client, pair.family)
    assert mesh.managed.value(own_address(pair)) is None


def test_removing_what_is_absent_is_no_error(pair: Pair, mesh: Mesh) -> None:
    """removed while absent: no error"""
    mesh.remove(pair.client, pair.family)
    assert not mesh.managed
    assert not mesh.complaints()


def test_removing_leaves_the_others(pair: Pair, mesh: Mesh) -> None:
    """removed: no other address goes with it"""
    mesh.manage(pair.client, pair.server)
    before = set(mesh.managed)
    mesh.remove(pair.client, pair.family)
    assert set(mesh.managed) == before - {own_address(pair)}


# Addresses and ports that look like the control address and are not: neighbours, reversed bytes,
# the same number in another place of an IPv6 address, the server itself.
NEAR_MISSES_IPV4 = [
    ("0.0.0.2", 928),
    ("0.0.0.2", 931),
    ("0.0.0.2", 0xA103),  # 929 with its bytes reversed
    ("0.0.0.3", 929),
    ("0.0.0.4", 929),
    ("0.0.2.0", 929),
    ("2.0.0.0", 929),
    ("10.77.0.2", 929),
]
NEAR_MISSES_IPV6 = [
    ("::2", 928),
    ("::2", 931),
    ("::2", 0xA103),
    ("::3", 929),
    ("::1:0", 929),
    ("::1:2", 929),
    ("::2:0:0", 929),
    ("200::", 929),
    ("::1:0:0:2", 929),
    ("0:0:0:1::2", 929),
    ("1::2", 929),
    ("fd99::2", 929),
    ("fd77::2", 929),
]


def test_a_near_miss_does_nothing(pair: Pair, mesh: Mesh) -> None:
    """nearly that address or port: nothing happens"""
    for address, port in NEAR_MISSES_IPV6 if pair.family is Family.V6 else NEAR_MISSES_IPV4:
        target = ipaddress.ip_address(address)
        if target == mesh.control_address(pair.family) and port in mesh.profile.control.other_ports:
            continue
        mesh.control_connect(pair.client, pair.family, port, target)
        assert not mesh.managed, f"{address} port {port} enrolled"
        mesh.manage(pair.client)
        before = set(mesh.managed)
        mesh.control_connect(pair.client, pair.family, 930 if port == 929 else port, target)
        assert set(mesh.managed) == before, f"{address} port {port} removed"
        mesh.managed.clear()
