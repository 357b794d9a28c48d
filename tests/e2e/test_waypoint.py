"""The waypoint, end to end: clients that ask for the server are connected with it, and it forwards."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.kinds import ProgramKind
from testbed.errors import UsageError
from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Absent, Direction
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.records import Destination, waypoint_metadata
from testbed.kmesh.waypoint import Waypoint
from testbed.lab.family import ConnTuple
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.lab.payload import difference
from testbed.lab.redirect import Redirection
from testbed.lab.sockets import reset
from testbed.lab.wait import DEADLINE_S
from testbed.observe.callbacks import Op
from testbed.observe.tap import Tap
from tests.conftest import ROOT
from tests.e2e.test_plugin import pytest_in

PAYLOAD = b"GET / HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\n\r\n"
OUTBOUND = (Direction.OUTBOUND, TcpState.ESTABLISHED)
INBOUND = (Direction.INBOUND, TcpState.ESTABLISHED)


def receive(sock: socket.socket, size: int) -> bytes:
    """That many bytes, or what came before the end."""
    data = bytearray()
    while len(data) < size and (part := sock.recv(size - len(data))):
        data += part
    return bytes(data)


def accept(listener: socket.socket) -> socket.socket:
    server, _ = listener.accept()
    server.settimeout(DEADLINE_S)
    return server


@pytest.fixture(scope="module")
def redirection(object_loader: ObjectLoader) -> Iterator[Redirection]:
    with Redirection(object_loader) as made:
        yield made


@pytest.fixture
def waypoint(lab: Lab) -> Iterator[Waypoint]:
    with Waypoint(lab["waypoint"]) as made:
        yield made


@dataclass(frozen=True)
class Service:
    """A listener of the server's whose clients are sent to the waypoint."""

    pair: Pair
    mesh: Mesh
    listener: socket.socket

    @property
    def address(self) -> Destination:
        return self.pair.server.address(self.pair.family.version), self.listener.getsockname()[1]

    def connect(self, sock: socket.socket | None = None) -> socket.socket:
        """A client of it, connected with the waypoint instead."""
        sock = sock or self.pair.client_socket()
        self.mesh.via_waypoint(sock)
        return self.pair.client.connect(*self.address, sock=sock)


@pytest.fixture
def service(pair: Pair, mesh: Mesh, waypoint: Waypoint, redirection: Redirection) -> Iterator[Service]:
    if not mesh.has(ProgramKind.SK_MSG):
        raise Absent("the set has no sk_msg program, which writes the metadata")
    with pair.listen() as listener:
        made = Service(pair, mesh, listener)
        with redirection.of(pair.lab, {made.address: waypoint.at(pair.family.version)}):
            yield made


@pytest.mark.topology("waypoint")
def test_by_way_of_the_waypoint(service: Service, waypoint: Waypoint, mesh: Mesh, tap: Tap) -> None:
    """Asked for the server, connected with the waypoint, which is told the server; the payload is whole."""
    mesh.manage(service.pair.client, service.pair.server)
    with service.connect() as client:
        connection = ConnTuple.of_client(client)
        assert (connection.dst, connection.dport) == waypoint.at(service.pair.family.version)
        (syn,) = tap.of(client, Op.TCP_CONNECT)
        assert (syn.remote, syn.remote_port) == (connection.dst, connection.dport)
        assert set(mesh.sockhash) == {connection}
        client.sendall(PAYLOAD)
        with accept(service.listener) as server:
            assert receive(server, len(PAYLOAD)) == PAYLOAD
            (forwarded,) = waypoint.connections
            assert forwarded.client == connection
            assert forwarded.metadata == waypoint_metadata(*service.address)
            assert forwarded.destination == service.address
            server.sendall(ANSWER)
            assert receive(client, len(ANSWER)) == ANSWER
            assert forwarded.onward is not None
            assert forwarded.onward == ConnTuple.of_client(server).reversed
            records = [(each.event, each.tuple, each.orig_dst) for each in mesh.observed]
            assert records == [(OUTBOUND, connection, service.address), (INBOUND, forwarded.onward, None)]
            assert [request.tuple for request in mesh.auth_requests] == [forwarded.onward]


@pytest.mark.topology("waypoint")
def test_a_managed_waypoint_is_reported_as_any_other(
    service: Service, waypoint: Waypoint, mesh: Mesh
) -> None:
    """Two connections, of which both sides are told; both clients asked for the server."""
    if not mesh.has(ProgramKind.CONNECT4):
        raise Absent("the set has no connect hook, which makes the storage of a waypoint's own sockets")
    mesh.manage(*service.pair.lab.hosts.values())
    with service.connect() as client:
        client.sendall(PAYLOAD)
        with accept(service.listener) as server:
            assert receive(server, len(PAYLOAD)) == PAYLOAD
            (forwarded,) = waypoint.connections
            assert forwarded.onward is not None
            for connection in (forwarded.client, forwarded.onward):
                records = sorted((each.event, each.orig_dst) for each in mesh.observed_of(connection))
                assert records == [(INBOUND, None), (OUTBOUND, service.address)]


@pytest.mark.topology("waypoint")
def test_a_mebibyte_each_way_and_half_closes(service: Service, waypoint: Waypoint, mesh: Mesh) -> None:
    """Whole in both directions; the client's end comes before the server's answer begins."""
    mesh.manage(service.pair.client, service.pair.server)
    payload, answer = bytes(range(256)) * 4096, bytes(range(255, -1, -1)) * 4096
    with service.connect() as client, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(client.sendall, payload)
        with accept(service.listener) as server:
            assert not difference(receive(server, len(payload)), payload)
            sending.result()
            client.shutdown(socket.SHUT_WR)
            assert server.recv(1) == b""
            sending = pool.submit(server.sendall, answer)
            assert not difference(receive(client, len(answer)), answer)
            sending.result()
            server.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
    (forwarded,) = mesh.eventually(lambda: [each for each in waypoint.connections if each.sent is not None])
    assert (forwarded.sent, forwarded.received, forwarded.reset) == (len(payload), len(answer), "")


@pytest.mark.topology("waypoint")
def test_two_clients_at_once(service: Service, waypoint: Waypoint, mesh: Mesh) -> None:
    """Each has its own metadata, and its own answer."""
    mesh.manage(service.pair.client, service.pair.server)
    with service.connect() as one, service.connect() as other, ExitStack() as stack:
        for client, text in ((other, b"other"), (one, b"one")):
            client.sendall(text)
        servers = [stack.enter_context(accept(service.listener)) for _ in range(2)]
        said = {server.recv(16): server for server in servers}
        for text, server in said.items():
            server.sendall(text.upper())
        assert (one.recv(16), other.recv(16)) == (b"ONE", b"OTHER")
        assert [each.client for each in waypoint.connections] == list(map(ConnTuple.of_client, (one, other)))
        assert {each.metadata for each in waypoint.connections} == {waypoint_metadata(*service.address)}


@pytest.mark.topology("waypoint")
def test_a_server_that_refuses(service: Service, waypoint: Waypoint, mesh: Mesh) -> None:
    """The client was connected, and sees the end; the server has nothing to report."""
    mesh.manage(service.pair.client, service.pair.server)
    with service.connect() as client:
        address, port = service.address
        service.listener.close()
        client.sendall(PAYLOAD)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        (forwarded,) = waypoint.connections
        assert forwarded.metadata == waypoint_metadata(address, port)
        assert forwarded.onward is None
        assert waypoint.errors == [
            f"{forwarded.client}: connect to {address} port {port}: Connection refused"
        ]
        assert [(each.event, each.orig_dst) for each in mesh.observed][:1] == [(OUTBOUND, (address, port))]
        assert not mesh.auth_requests


@pytest.mark.topology("waypoint")
def test_a_refusal_is_a_reset(lab: Lab, waypoint: Waypoint) -> None:
    """Also where nothing is left unread, which would be one by itself."""
    with lab["client"].connect(*waypoint.at(4)) as client:
        client.sendall(waypoint_metadata(lab["server"].address(4), 9))
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.topology("waypoint")
def test_a_reset_is_passed_on(service: Service, waypoint: Waypoint, mesh: Mesh) -> None:
    mesh.manage(service.pair.client, service.pair.server)
    with service.connect() as client:
        client.sendall(PAYLOAD)
        server = accept(service.listener)
        server.sendall(ANSWER)
        assert receive(client, len(ANSWER)) == ANSWER
        reset(server)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert [(each.sent, each.received, each.reset) for each in waypoint.connections] == [
        (len(PAYLOAD), len(ANSWER), "ECONNRESET")
    ]


@pytest.mark.topology("waypoint")
def test_without_the_mark_there_is_no_metadata(service: Service, waypoint: Waypoint, mesh: Mesh) -> None:
    """What a waypoint is sent by a client that is not via it: payload, which it takes for bad metadata."""
    mesh.profile.require("waypoint")
    mesh.manage(service.pair.client)
    with service.pair.client.connect(*service.address, sock=service.pair.client_socket()) as client:
        client.sendall(PAYLOAD)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert waypoint.errors == [
        f"{waypoint.connections[0].client}: malformed metadata: it begins with 47, not 01"
    ]


@pytest.mark.topology("waypoint")
@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("02", "it begins with 02, not 01"),
        ("01 00000004", "its length is 4, not 6 (IPv4) or 18 (IPv6)"),
        ("01 7fffffff", "its length is 2147483647, not 6 (IPv4) or 18 (IPv6)"),
        ("01 00000006 0a510201 0050 ff 00000000", "it ends with ff00000000, not fe00000000"),
        ("01 00000006 0a510201 0050 fe 00000001", "it ends with fe00000001, not fe00000000"),
        ("01 00000006 0a51", "the connection ended after 7 bytes of it: 01000000060a51"),
        ("", "the connection ended after 0 bytes of it: "),
    ],
)
def test_malformed_metadata_is_reset_and_told(lab: Lab, waypoint: Waypoint, data: str, why: str) -> None:
    with lab["client"].connect(*waypoint.at(4)) as client:
        connection = ConnTuple.of_client(client)
        client.sendall(bytes.fromhex(data))
        if "ended" in why:
            client.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert waypoint.errors == [f"{connection}: malformed metadata: {why}"]
    assert [(each.client, each.metadata) for each in waypoint.connections] == [(connection, b"")]


@pytest.mark.topology("waypoint")
def test_a_waypoint_ends_with_its_block_and_with_its_host(lab: Lab) -> None:
    host = lab["waypoint"]
    with Waypoint(host, 15008) as waypoint, lab["client"].connect(*waypoint.at(6)) as client:
        assert waypoint.port == 15008
        with pytest.raises(UsageError, match=r"waypoint on waypoint, port 15008: Address already in use"):
            Waypoint(host, 15008)
        waypoint.close()
        assert client.recv(1) == b""
        assert waypoint.connections == []
    lab.settle()
    with Waypoint(host) as waypoint:
        host.close()
    assert waypoint.errors == []


@pytest.mark.long
def test_the_example_of_the_docs_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "waypoint.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    done = pytest_in(tmp_path, code)
    assert "4 passed" in done.stdout, done.stdout
