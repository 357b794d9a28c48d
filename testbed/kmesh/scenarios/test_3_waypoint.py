"""Waypoint: metadata ahead of the payload"""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest

from testbed.kmesh.mesh import Mesh
from testbed.kmesh.oracle.oracle import Oracle
from testbed.lab.pair import Connection, Pair
from testbed.lab.payload import difference

PAYLOAD = b"GET / HTTP/1.1\r\n\r\n"


def connect_via_waypoint(pair: Pair, mesh: Mesh) -> Connection:
    sock = pair.client_socket()
    mesh.via_waypoint(sock)
    return pair.connect(sock)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes, then nothing more: whatever else was sent is in the result too."""
    data = bytearray()
    while len(data) < size and (part := sock.recv(size - len(data))):
        data += part
    sock.setblocking(False)
    with suppress(BlockingIOError):
        data += sock.recv(4096)
    sock.settimeout(2.0)
    return bytes(data)


def test_the_socket_is_in_the_sockhash(pair: Pair, mesh: Mesh) -> None:
    """the client's tuple is the key in the sockhash"""
    mesh.manage(pair.client)
    with connect_via_waypoint(pair, mesh) as connection:
        assert set(mesh.sockhash) == {connection.tuple}


def test_the_server_reads_metadata_then_payload(pair: Pair, mesh: Mesh) -> None:
    """the server reads metadata, then payload"""
    mesh.manage(pair.client, pair.server)
    with connect_via_waypoint(pair, mesh) as connection:
        expected = mesh.waypoint_metadata(connection.tuple) + PAYLOAD
        connection.client.sendall(PAYLOAD)
        assert not difference(receive(connection.server, len(expected)), expected)


def test_metadata_is_written_once(pair: Pair, mesh: Mesh) -> None:
    """later sends carry the payload alone"""
    mesh.manage(pair.client)
    with connect_via_waypoint(pair, mesh) as connection:
        expected = mesh.waypoint_metadata(connection.tuple) + PAYLOAD + PAYLOAD + b"x"
        for part in (PAYLOAD, PAYLOAD, b"x"):
            connection.client.sendall(part)
        assert not difference(receive(connection.server, len(expected)), expected)


def test_a_large_payload_follows_whole(pair: Pair, mesh: Mesh) -> None:
    """64 KiB behind the metadata arrive whole"""
    mesh.manage(pair.client)
    payload = bytes(range(256)) * 256
    with connect_via_waypoint(pair, mesh) as connection:
        expected = mesh.waypoint_metadata(connection.tuple) + payload
        connection.client.sendall(payload)
        assert not difference(receive(connection.server, len(expected)), expected)


def test_answers_are_untouched(pair: Pair, mesh: Mesh) -> None:
    """the server's answers have none"""
    mesh.manage(pair.client, pair.server)
    with connect_via_waypoint(pair, mesh) as connection:
        connection.server.sendall(PAYLOAD)
        assert not difference(receive(connection.client, len(PAYLOAD)), PAYLOAD)


def test_closing_empties_the_sockhash(pair: Pair, mesh: Mesh) -> None:
    """closed: the sockhash is empty"""
    mesh.manage(pair.client)
    with connect_via_waypoint(pair, mesh):
        assert mesh.sockhash
    pair.lab.settle()
    assert not mesh.sockhash


def test_without_waypoint_the_payload_is_untouched(pair: Pair, mesh: Mesh) -> None:
    """no waypoint: sockhash empty, payload untouched"""
    mesh.profile.require("waypoint")
    mesh.manage(pair.client, pair.server)
    with pair.connect() as connection:
        assert not mesh.sockhash
        connection.client.sendall(PAYLOAD)
        assert not difference(receive(connection.server, len(PAYLOAD)), PAYLOAD)


def test_an_unmanaged_client_has_no_waypoint(pair: Pair, mesh: Mesh) -> None:
    """unmanaged client: payload untouched"""
    mesh.manage(pair.server)
    with connect_via_waypoint(pair, mesh) as connection:
        assert not mesh.sockhash
        connection.client.sendall(PAYLOAD)
        assert not difference(receive(connection.server, len(PAYLOAD)), PAYLOAD)


def test_a_mapped_client_socket_is_ipv4(pair: Pair, mesh: Mesh) -> None:
    """IPv6 client socket, mapped address: the same"""
    address = pair.server.address(pair.family.version)
    text = f"::ffff:{address}" if address.version == 4 else str(address)
    mesh.manage(pair.client)
    with pair.listen() as listener, pair.client.socket(socket.AF_INET6) as client:
        mesh.via_waypoint(client)
        pair.client.connect(text, listener.getsockname()[1], sock=client)
        server, _ = listener.accept()
        with Connection(client, server) as connection:
            expected = mesh.waypoint_metadata(connection.tuple) + PAYLOAD
            assert set(mesh.sockhash) == {connection.tuple}
            client.sendall(PAYLOAD)
            assert not difference(receive(server, len(expected)), expected)
            assert [record.orig_dst for record in mesh.observed] == [
                (connection.tuple.dst, connection.tuple.dport)
            ]


@pytest.mark.families("mapped-client")
def test_a_socket_used_in_both_ip_versions(pair: Pair, mesh: Mesh, oracle: Oracle) -> None:
    """refused at an IPv6 address, then mapped: no trace of it"""
    mesh.manage(pair.client)
    with pair.listen() as listener, pair.client_socket() as sock:
        mesh.via_waypoint(sock)
        with pytest.raises(ConnectionRefusedError):
            pair.client.connect(pair.server.address(6), listener.getsockname()[1], sock=sock)
        with pair.connect(sock, listener=listener) as connection:
            oracle.check()  # what its storage says that it asked for
            expected = mesh.waypoint_metadata(connection.tuple) + PAYLOAD
            connection.client.sendall(PAYLOAD)
            assert not difference(receive(connection.server, len(expected)), expected)
