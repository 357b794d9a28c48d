"""The program set by role: writing is as natural as reading."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest

from testbed.bpf.kinds import ProgramKind
from testbed.bpf.program_set import ProgramSet
from testbed.errors import UsageError
from testbed.kmesh.abi import Direction, Verdict
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.records import Storage
from testbed.lab.family import ConnTuple
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.observe.tap import Tap

A, B = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("fd00::1")


def test_managed_is_a_set(mesh: Mesh) -> None:
    mesh.managed |= {A, B}
    assert set(mesh.managed) == {A, B}
    mesh.managed.remove(A)
    assert set(mesh.managed) == {B}
    with pytest.raises(KeyError):
        mesh.managed.remove(A)
    assert "10.0.0.1" not in mesh.managed


def test_sets_are_made_of_managed(mesh: Mesh) -> None:
    mesh.managed |= {A}
    assert mesh.managed & {A, B} == {A}
    assert mesh.managed | {B} == {A, B}
    assert mesh.managed - {A} == set()
    assert mesh.sockhash | set() == set()
    mesh.managed &= {B}
    assert not mesh.managed


def test_verdicts_are_a_mapping(mesh: Mesh) -> None:
    one = ConnTuple(A, 1, A, 2)
    two = ConnTuple(B, 1, B, 2)
    mesh.verdicts.update({one: Verdict.DENY, two: Verdict.ALLOW})
    assert mesh.verdicts == {one: Verdict.DENY, two: Verdict.ALLOW}
    del mesh.verdicts[one]
    assert one not in mesh.verdicts
    with pytest.raises(KeyError, match=r"10\.0\.0\.1:1"):
        del mesh.verdicts[one]


def test_storage_is_by_socket(pair: Pair, mesh: Mesh) -> None:
    with pair.client_socket() as one, pair.client_socket() as two:
        assert one not in mesh.storage
        mesh.storage[one] = Storage(via_waypoint=True)
        assert mesh.storage[one].via_waypoint
        assert two not in mesh.storage
        del mesh.storage[one]
        with pytest.raises(KeyError):
            mesh.storage[one]


def test_the_connect_hook_makes_the_storage(pair: Pair, mesh: Mesh) -> None:
    with pair.connect() as connection:
        storage = mesh.storage[connection.client]
        assert storage.asked_for == (connection.tuple.dst, connection.tuple.dport)
        assert storage.direction == Direction.OUTBOUND
        assert storage.connect_ns > 0
        assert connection.server not in mesh.storage


def test_a_connect_begins_anew(pair: Pair, mesh: Mesh) -> None:
    """What an earlier connect() of the socket left is gone; what user space wants stays."""
    with pair.client_socket() as sock:
        mesh.storage[sock] = Storage(via_waypoint=True, has_encoded=True, asked_for=(B, 9))
        with pair.connect(sock) as connection:
            storage = mesh.storage[sock]
            assert storage.asked_for == (connection.tuple.dst, connection.tuple.dport)
            assert (storage.via_waypoint, storage.has_encoded) == (True, False)


@pytest.mark.parametrize("address", [A, B, None])
def test_config_is_attributes(mesh: Mesh, address: ipaddress.IPv4Address | None) -> None:
    mesh.config.node_ip = address
    mesh.config.pod_gateway = address
    mesh.config.monitoring = False
    mesh.config.log_level = 3
    assert (mesh.config.node_ip, mesh.config.pod_gateway) == (address, address)
    assert (mesh.config.monitoring, mesh.config.log_level) == (False, 3)


def test_a_mesh_starts_empty(program_set: ProgramSet, lab: Lab) -> None:
    with Mesh(program_set, lab) as mesh:
        mesh.managed.add(A)
        mesh.verdicts[ConnTuple(A, 1, A, 2)] = Verdict.DENY
        mesh.config.node_ip = A
        mesh.config.monitoring = False
    with Mesh(program_set, lab) as mesh:
        assert not mesh.managed
        assert not mesh.verdicts
        assert mesh.config.node_ip is None
        assert mesh.config.monitoring


def test_one_lab_at_a_time(mesh: Mesh, program_set: ProgramSet, lab: Lab) -> None:
    with pytest.raises(UsageError, match="at work in another lab"):
        Mesh(program_set, lab)
    assert not mesh.managed


def test_a_closed_mesh_sees_nothing(program_set: ProgramSet, pair: Pair) -> None:
    with Mesh(program_set, pair.lab) as mesh:
        mesh.manage(pair.client, pair.server)
    with pair.connect():
        pass
    with Mesh(program_set, pair.lab) as mesh:
        assert not mesh.observed


def test_authorize_judges_each_request_once(pair: Pair, mesh: Mesh) -> None:
    mesh.manage(pair.server)
    with pair.connect() as one, pair.connect() as two:
        judged = mesh.authorize(lambda request: Verdict.DENY if request.tuple == one.tuple else Verdict.ALLOW)
        assert [request.tuple for request in judged] == [one.tuple, two.tuple]
        assert mesh.verdicts == {one.tuple: Verdict.DENY, two.tuple: Verdict.ALLOW}
        assert mesh.authorize(lambda _request: Verdict.DENY) == []


def test_outbound_without_storage_is_logged(
    program_set: ProgramSet, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the connect hook: no record, but a complaint, which is read as a record too."""
    sockops = {program.name: program for program in program_set.of_kind(ProgramKind.SOCKOPS)}
    with Mesh(dataclasses.replace(program_set, programs=sockops), pair.lab) as mesh:
        mesh.manage(pair.client)
        with monkeypatch.context() as patch:
            patch.setattr(pair.client, "before_connect", [])  # else the test makes it in the hook's place
            pair.connect().close()
        pair.lab.settle()
        assert [event.message for event in mesh.log] == ["observe: an outbound socket without storage"]
        assert not mesh.observed


def test_addresses_of_the_other_side(pair: Pair, mesh: Mesh, tap: Tap) -> None:
    """manage() and unmanage() take hosts and addresses alike."""
    mesh.manage(pair.client, pair.server.address(4))
    assert set(mesh.managed) == {*pair.client.addresses, pair.server.address(4)}
    mesh.unmanage(pair.client)
    assert set(mesh.managed) == {pair.server.address(4)}
    assert len(tap) == 0


def test_a_control_connect_that_cannot_start_is_an_error(pair: Pair, mesh: Mesh) -> None:
    pair.client.run(["ip", "route", "del", "default"])
    pair.client.run(["ip", "-6", "route", "del", "default"])
    with pytest.raises(OSError, match="Network is unreachable"):
        mesh.enrol(pair.client, pair.family)
