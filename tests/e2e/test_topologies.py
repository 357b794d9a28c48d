"""Topologies on the real kernel: who reaches whom, what is on the wire, and that all that was said is so."""

from __future__ import annotations

import ipaddress
import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from testbed.errors import UsageError
from testbed.kmesh.mesh import Mesh
from testbed.lab.bench import Bench
from testbed.lab.family import Address
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.topology.load import load_topology, shipped
from testbed.topology.model import Topology
from tests.conftest import Run

ETH_P_ALL = 3
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
COUNTS = {"scale": {"client": 3, "server": 3}}
# ff01::1 and ff02::1, of all nodes: the groups that nobody reports (RFC 3810, 6)
UNREPORTED = {"ff01" + "0" * 27 + "1", "ff02" + "0" * 27 + "1"}


def of(hosts: dict[str, Any], *links: Any) -> Topology:
    return Topology.model_validate({"name": "x", "hosts": hosts, "links": list(links)})


def reached(topology: Topology) -> dict[str, set[str]]:
    """By host: all that a way of links leads to."""
    found: dict[str, set[str]] = {}
    for name in topology.hosts:
        there, ways = {name}, [name]
        while ways:
            new = set(topology.neighbours(ways.pop())) - there
            there |= new
            ways += new
        found[name] = there - {name}
    return found


def address_of(lab: Lab, client: str, server: str, version: int) -> Address:
    """Where a client connects to: on a link of both, where there is one."""
    end = lab.topology.neighbours(client).get(server)
    near = [interface.ip for interface in end.addresses if interface.version == version] if end else []
    return near[0] if near else lab[server].address(version)


def connect(lab: Lab, client: str, server: str, address: Address) -> tuple[str, str]:
    """Both ends' addresses of a connection as the server sees them. Data goes both ways."""
    family = FAMILIES[address.version]
    with ExitStack() as stack:
        listener = stack.enter_context(lab[server].listen(family))
        one = stack.enter_context(lab[client].connect(address, listener.getsockname()[1]))
        other, peer = listener.accept()
        stack.enter_context(other)
        for sender, receiver in ((one, other), (other, one)):
            sender.sendall(b"x")
            assert receiver.recv(1) == b"x"
        return str(peer[0]), str(address)


class Wires:
    """Everything that the hosts of a lab send and receive, from now on."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.sockets: dict[str, socket.socket] = {}
        for name, host in lab.hosts.items():
            sock = host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            stack.callback(host.namespace.let_go, sock)
            sock.setblocking(False)
            self.sockets[name] = sock

    def seen(self) -> Iterator[tuple[str, set[str], bytes]]:
        """(host, both addresses, the frame); without addresses where it is no TCP."""
        for name, sock in self.sockets.items():
            for frame in iter(partial(_received, sock), b""):
                packet = Ether(frame)
                ip = packet.getlayer(IP) or packet.getlayer(IPv6)
                yield name, {ip.src, ip.dst} if ip is not None and TCP in packet else set(), frame


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except BlockingIOError:
        return b""


def groups(host: Host) -> set[str]:
    lines = (Path("/proc") / str(host.namespace.pid) / "net/igmp6").read_text(encoding="ascii").splitlines()
    return {line.split()[2] for line in lines}


@pytest.mark.parametrize("name", shipped())
def test_everybody_reaches_everybody_and_nothing_else_is_on_the_wire(bench: Bench, name: str) -> None:
    topology = load_topology(name, COUNTS.get(name, {}))
    with Lab(bench, topology) as lab, ExitStack() as stack:
        wires = Wires(lab, stack)
        forwarding = {host for host, spec in topology.hosts.items() if spec.forwarding}
        for client, servers in reached(topology).items():
            for server, version in itertools.product(sorted(servers), (4, 6)):
                ends = connect(lab, client, server, address_of(lab, client, server, version))
                lab.settle()
                for where, between, frame in wires.seen():
                    assert between == set(ends), f"{where}: {frame.hex()}"
                    assert where in {client, server} | forwarding, f"{client} – {server} seen by {where}"
        for host in lab.hosts.values():
            assert groups(host) <= UNREPORTED


def test_first_connects_lose_nothing(bench: Bench) -> None:
    for name in ("bridge", "two-node", "routed"):
        topology = load_topology(name)
        first, *_, last = topology.hosts
        for version in (4, 6) * 3:
            with Lab(bench, topology) as lab:
                connect(lab, last, first, lab[first].address(version))
                assert lab[last].counters()["TcpRetransSegs"] == 0


def test_a_pair_finds_its_hosts_behind_a_router(bench: Bench) -> None:
    with Lab(bench, load_topology("routed")) as lab:
        hops = {
            version: connect(lab, "client", "server", lab["server"].address(version)) for version in (4, 6)
        }
    assert hops[4] == ("10.80.1.1", "10.80.2.1")
    assert hops[6] == ("fd80:1::1", "fd80:2::1")


@pytest.mark.parametrize(
    "route",
    [{"10.2.0.0/24": "b", "fd02::/64": "b"}, {"10.2.0.0/24": "10.1.0.2", "fd02::/64": "fd01::2"}, {"c": "b"}],
)
def test_routes_by_name_by_address_and_to_a_host(bench: Bench, route: dict[str, str]) -> None:
    topology = of(
        {"a": {"routes": route}, "b": {"role": "router"}, "c": {"gateway": "b"}},
        [{"host": "a", "addresses": ["10.1.0.1/24", "fd01::1/64"]}, "b"],
        ["b", {"host": "c", "addresses": ["10.2.0.1/24", "fd02::1/64"]}],
    )
    with Lab(bench, topology) as lab:
        for version in (4, 6):
            connect(lab, "a", "c", lab["c"].address(version))


def test_who_does_not_forward_does_not(bench: Bench) -> None:
    topology = of({"a": {"gateway": "b"}, "b": {}, "c": {"gateway": "b"}}, ["a", "b"], ["b", "c"])
    with Lab(bench, topology) as lab, lab["a"].socket() as sock:
        lab["a"].begin_connect(lab["c"].address(4), 1, sock)
        assert lab["b"].counters()["IpForwDatagrams"] == 0


def test_bridges_that_are_linked_are_one_network(bench: Bench) -> None:
    """Each knows what is behind the link between them: nothing is sent to who it is not for."""
    port = {"host": "one", "bridge": "br0"}, {"host": "two", "bridge": "br1"}
    topology = of(
        {"one": {"bridges": {"br0": None}}, "two": {"bridges": {"br1": None}}, "a": {"count": 2}, "b": {}},
        ["a", port[0]],
        ["b", port[1]],
        list(port),
    )
    with Lab(bench, topology) as lab, ExitStack() as stack:
        wires = Wires(lab, stack)
        for client, server in itertools.permutations(lab.hosts, 2):
            connect(lab, client, server, lab[server].address(6))
            lab.settle()
            seen = {name for name, _, _ in wires.seen()}
            assert {client, server} <= seen <= {client, server, "one", "two"}


def test_an_address_that_is_added_on_a_bridge_is_known(bench: Bench) -> None:
    with Lab(bench, load_topology("bridge")) as lab:
        for added in (ipaddress.ip_interface("10.79.0.99/24"), ipaddress.ip_interface("fd79::99/64")):
            lab["pod-2"].add_address(added)
            connect(lab, "pod-1", "pod-2", added.ip)
            connect(lab, "node", "pod-2", added.ip)


def test_what_was_said_is_so(bench: Bench) -> None:
    sysctls = {
        "net.ipv4.tcp_syn_retries": 2,
        "net.ipv4.conf.eth0.mc_forwarding": 0,
        "net.ipv4.conf.eth0.tag": 7,
    }
    del sysctls["net.ipv4.conf.eth0.mc_forwarding"]
    topology = of({"a": {"sysctls": sysctls, "cgroup": "other"}, "b": {}}, {"ends": ["a", "b"], "mtu": 1400})
    with Lab(bench, topology) as lab:
        for host in lab.hosts.values():
            shown = host.run(["ip", "link", "show", "eth0"]).stdout
            assert " mtu 1400 " in shown
            assert "NOARP" in shown
        for sysctl, value in sysctls.items():
            path = "/proc/sys/" + sysctl.replace(".", "/")
            assert lab["a"].run(["cat", path]).stdout == f"{value}\n"
            assert lab["b"].run(["cat", path], check=False).stdout != f"{value}\n"
        assert str(lab["a"].namespace.pid) in (lab.cgroup_path / "other/cgroup.procs").read_text().split()


def test_a_sysctl_that_is_not_there_is_named(bench: Bench) -> None:
    topology = of({"a": {"sysctls": {"net.ipv4.tcp_syn_retrys": 2}}})
    with pytest.raises(
        UsageError, match=r"net.ipv4.tcp_syn_retrys of a .*did you mean net.ipv4.tcp_syn_retries\?"
    ):
        Lab(bench, topology)


def test_a_value_that_a_sysctl_cannot_have_is_named(bench: Bench) -> None:
    topology = of({"a": {"sysctls": {"net.ipv4.tcp_syn_retries": "many"}}})
    with pytest.raises(UsageError, match="tcp_syn_retries of a to 'many': EINVAL"):
        Lab(bench, topology)


MANAGED = Topology.model_validate(
    {
        "name": "managed",
        "hosts": {"client": {}, "server": {"managed": True}},
        "links": [["client", "server"]],
        "programs": [{"set": "reference", "at": "server"}],
    }
)


@pytest.mark.families("v4")
@pytest.mark.topology(MANAGED)
def test_a_mesh_is_where_the_topology_says(pair: Pair, mesh: Mesh) -> None:
    assert set(mesh.managed) == set(pair.server.addresses)
    assert mesh.at is pair.server


def test_the_commands(testbed_command: Run, tmp_path: Path) -> None:
    """Every file is read and every mistake told, whatever is wrong with others."""
    (tmp_path / "good.yaml").write_text("name: x\nhosts: {a: {}, b: {}}\nlinks: [[a, b]]\n")
    (tmp_path / "bad.yaml").write_text("name: x\nhosts: {a: {gatway: b, role: x}}\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff")
    files = ("bad.yaml", "good.yaml", "binary.yaml", "absent.yaml", "pair", ".")
    told = testbed_command("validate", *files, cwd=tmp_path)
    assert told.returncode == 2
    assert told.stdout == "good.yaml: ok, 2 hosts, 1 link\npair: ok, 2 hosts, 1 link\n"
    assert "Traceback" not in told.stderr
    for begin in ("bad.yaml:2:13: hosts.a.gatway: ", "bad.yaml:2:30: hosts.a.role: ", "binary.yaml:1:1: "):
        assert any(line.startswith(begin) for line in told.stderr.splitlines())
    assert "absent.yaml: there is no such file" in told.stderr
    verdicts = json.loads(testbed_command("validate", *files, "--json", cwd=tmp_path).stdout)
    assert [each["ok"] for each in verdicts] == [False, True, False, False, True, False]
    assert [mistake["line"] for mistake in verdicts[0]["mistakes"]] == [2, 2]


def test_good_files_alone(testbed_command: Run) -> None:
    told = testbed_command("validate", *shipped())
    assert (told.returncode, told.stderr) == (0, "")
    assert len(told.stdout.splitlines()) == len(shipped())
    assert json.loads(testbed_command("schema").stdout)["required"] == ["name", "hosts"]
