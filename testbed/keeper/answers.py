"""What a keeper tells of its lab: JSON-like values, for people's eyes and for --json alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from testbed.bpf.kinds import Target
from testbed.bpf.program_set import Program
from testbed.keeper.interfaces import bridges, links
from testbed.keeper.kept import Kept, Placed
from testbed.kernel.route_dump import Route, routes
from testbed.kernel.sockdiag import TcpSocket
from testbed.kmesh.abi import Absent
from testbed.kmesh.mesh import Mesh
from testbed.lab.family import endpoint
from testbed.lab.host import Host
from testbed.topology.model import LAB

About = dict[str, Any]


def about(kept: Kept) -> About:
    """The lab in short."""
    return {
        "name": kept.name,
        "topology": kept.topology,
        "pid": os.getpid(),
        "since": kept.since,
        "log": kept.log,
        "hosts": [_host(kept, host) for host in kept.lab.hosts.values()],
        "programs": [{"where": each.where, "origin": each.programs.origin} for each in kept.placed],
        "notes": list(kept.notes),
    }


def inspect(kept: Kept) -> About:
    """Everything but the contents of maps: addresses, routes, cgroups, programs, sockets."""
    found = about(kept)
    for shown, host in zip(found["hosts"], kept.lab.hosts.values(), strict=True):
        shown.update(_host_in_full(kept, host))
    found["cgroup"] = _cgroup(kept, kept.lab.cgroup_path)
    found["cgroups"] = kept.bench.root.where
    found["attached"] = [
        _program(kept, placed, program)
        for placed in kept.placed
        for program in placed.programs.programs.values()
    ]
    found["links"] = links(kept)
    found["bridges"] = bridges(kept)
    found["topology_as_dict"] = kept.lab.topology.as_dict()
    return found


def _host(kept: Kept, host: Host) -> About:
    return {
        "name": host.name,
        "role": kept.lab.topology.hosts[host.name].role,
        "addresses": [
            {"interface": end.name, "address": str(interface)}
            for end in host.ends
            for interface in end.addresses
        ],
        "managed": [str(each) for each in host.addresses if each in managed(kept)],
    }


def managed(kept: Kept) -> set[Any]:
    """The managed addresses of all sets."""
    return {address for mesh in kept.meshes for address in _managed_of(mesh)}


def _managed_of(mesh: Mesh) -> set[Any]:
    try:
        return set(mesh.managed)
    except Absent:
        return set()


def _host_in_full(kept: Kept, host: Host) -> About:
    names = {end.index: end.name for end in host.ends}
    return {
        "pid": host.namespace.pid,
        "netns": _netns(host.namespace.netns_fd),
        "netns_cookie": host.netns_cookie,
        "cgroup": _cgroup(kept, Path(f"/proc/self/fd/{host.cgroup_fd}").readlink()),
        "routes": [_route(route, names) for route in routes(host.namespace.route)],
        "sockets": [_socket(sock) for sock in host.tcp_sockets()],
    }


def _netns(fd: int) -> int:
    return os.fstat(fd).st_ino


def _cgroup(kept: Kept, path: Path) -> str:
    """Within the tree of cgroup v2, wherever that is mounted."""
    text = str(path)
    at = text.find(f"/{kept.bench.cgroup.name}")
    return text[at:] if at >= 0 else text


def _route(route: Route, names: dict[int, str]) -> str:
    network = "default" if route.network.prefixlen == 0 else str(route.network)
    by = f" via {route.gateway}" if route.gateway else ""
    return f"{network}{by} dev {names.get(route.interface, route.interface)}"


def _socket(sock: TcpSocket) -> About:
    return {
        "state": sock.state.name,
        "local": endpoint(sock.local, sock.local_port),
        "remote": endpoint(sock.remote, sock.remote_port),
        "receive_queue": sock.receive_queue,
        "send_queue": sock.send_queue,
        "cookie": sock.cookie,
    }


def _program(kept: Kept, placed: Placed, program: Program) -> About:
    target = "nothing"
    if program.kind is not None and placed.is_at_work(program):
        where = "the lab" if placed.where == LAB else placed.where
        target = f"{where}'s cgroup" if program.kind.target is Target.CGROUP else "its sockhash"
    return {
        "name": program.name,
        "kind": program.section or (program.kind.section if program.kind else "?"),
        "id": kernel_id(program.fd, "prog_id"),
        "at": target,
        "set": placed.programs.origin,
        "lab": kept.name,
    }


def kernel_id(fd: int, key: str) -> int | None:
    """The kernel's number of a program (``prog_id``) or map (``map_id``), by fdinfo (Linux 4.13)."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value)
    return None


def manage(kept: Kept, name: str, on: bool) -> About:
    """Makes a host's addresses managed, or no longer. Returns which of them are."""
    host = kept.host(name)
    for mesh in kept.meshes_of(host):
        (mesh.manage if on else mesh.unmanage)(host)
    return _host(kept, host)
