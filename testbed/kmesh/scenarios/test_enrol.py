"""Enrolment: a connect to the control address makes the local address managed."""

from __future__ import annotations

import ipaddress

import pytest

from testbed.kmesh.mesh import Mesh
from testbed.lab.family import Family
from testbed.lab.pair import Pair


def own_address(pair: Pair) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return pair.client.address(pair.family.version)


def test_port_929_enrols(pair: Pair, mesh: Mesh) -> None:
    """connect to the control address, port 929: the client's address is managed"""
    mesh.enrol(pair.client, pair.family)
    assert set(mesh.managed) == {own_address(pair)}


def test_enrolling_again_changes_nothing(pair: Pair, mesh: Mesh) -> None:
    """enrolled twice: managed once"""
    mesh.enrol(pair.client, pair.family)
    mesh.enrol(pair.client, pair.family)
    assert set(mesh.managed) == {own_address(pair)}


def test_enrolling_overwrites_a_stale_value(pair: Pair, mesh: Mesh) -> None:
    """enrolled over a stale value: the value is 0 again"""
    mesh.managed.set_value(own_address(pair), 7)
    assert own_address(pair) not in mesh.managed
    mesh.enrol(pair.client, pair.family)
    assert mesh.managed.value(own_address(pair)) == 0


def test_port_930_removes(pair: Pair, mesh: Mesh) -> None:
    """connect to the control address, port 930: the client's address is gone"""
    mesh.enrol(pair.client, pair.family)
    mesh.remove(pair.client, pair.family)
    assert mesh.managed.value(own_address(pair)) is None


def test_removing_what_is_absent_is_no_error(pair: Pair, mesh: Mesh) -> None:
    """removed while absent: nothing happens, nothing is logged"""
    mesh.remove(pair.client, pair.family)
    assert not mesh.managed
    assert not mesh.log


def test_removing_leaves_the_others(pair: Pair, mesh: Mesh) -> None:
    """removed: only that address, not the host's other one, not the peer's"""
    mesh.manage(pair.client, pair.server)
    before = set(mesh.managed)
    mesh.remove(pair.client, pair.family)
    assert set(mesh.managed) == before - {own_address(pair)}


# Addresses and ports that look like the control address and are not: neighbours, reversed bytes,
# the same number in another place of an IPv6 address.
NEAR_MISSES = {
    "v4": [
        ("0.0.0.2", 928),
        ("0.0.0.2", 931),
        ("0.0.0.2", 0xA103),  # 929 with its bytes reversed
        ("0.0.0.1", 929),
        ("0.0.0.3", 929),
        ("0.0.2.0", 929),
        ("2.0.0.0", 929),
        ("10.77.0.2", 929),  # the server itself
    ],
    "v6": [
        ("::2", 928),
        ("::2", 931),
        ("::2", 0xA103),
        ("::3", 929),
        ("::1:2", 929),
        ("::2:0:0", 929),
        ("200::", 929),
        ("::1:0:0:2", 929),
        ("1::2", 929),
        ("fd99::2", 929),
        ("fd77::2", 929),
    ],
}


@pytest.mark.parametrize("number", range(max(map(len, NEAR_MISSES.values()))))
def test_a_near_miss_does_nothing(pair: Pair, mesh: Mesh, number: int) -> None:
    """connect to what is nearly the control address: nobody is enrolled, nobody removed"""
    misses = NEAR_MISSES["v6" if pair.family is Family.V6 else "v4"]
    address, port = misses[number % len(misses)]
    target = ipaddress.ip_address(address)
    mesh.control_connect(pair.client, pair.family, port, target)
    assert not mesh.managed
    mesh.manage(pair.client)
    before = set(mesh.managed)
    mesh.control_connect(pair.client, pair.family, port + (port == 929), target)
    assert set(mesh.managed) == before
