"""A history of other connections: afterwards the memory of the rings is full of their records."""

from __future__ import annotations

import socket
from contextlib import suppress

from testbed.bpf.maps import Map
from testbed.bpf.program_set import ProgramSet
from testbed.kmesh.abi import Absent
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.profile import Profile
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.topology.load import load_topology

_RING_HEADER = 8  # ahead of each record; `linux/bpf.h`: BPF_RINGBUF_HDR_SZ
_AT_ONCE = 32  # connections: a ring of one page holds twice as many requests


def _records_around(ring: Map | None, size: int) -> int:
    """How many records of a size it takes to get once around a ring."""
    if ring is None:
        return 0
    taken = size + (-size % 8) + _RING_HEADER
    return -(-ring.max_entries // taken)


def make_history(bench: Bench, program_set: ProgramSet, profile: Profile) -> None:
    """Opens and closes connections until both rings have been gone around once.

    By the longest records that there are: IPv6, where the era has it. Takes about 0.1 s.
    """
    family = Family.V4 if "ipv6" in profile.lacks else Family.V6
    observe = profile.records.observe
    requests, reports = (
        program_set.maps.get(profile.map_name(role) or "") for role in ("auth_requests", "observe")
    )
    around = [_records_around(requests, profile.records.auth_request.size)]
    if observe is not None:
        around.append(-(-_records_around(reports, observe.size) // 4))  # records a connection
    with Lab(bench, load_topology("pair")) as lab, Mesh(program_set, lab, profile) as mesh:
        pair = Pair(lab, family)
        mesh.manage(pair.client, pair.server)
        with pair.listen() as listener:
            for _ in range(max(around) // _AT_ONCE + 1):
                _connect(pair, listener, _AT_ONCE)
                _read_all(mesh)
        lab.settle()
        _read_all(mesh)


def _connect(pair: Pair, listener: socket.socket, times: int) -> None:
    address, (_, port, *_) = pair.server.address(pair.family.version), listener.getsockname()
    for sock in pair.client.sockets(times, pair.family.client):
        with pair.client.connect(address, port, sock=sock):
            server, _ = listener.accept()
        server.close()


def _read_all(mesh: Mesh) -> None:
    """A full ring takes no more records. What is in them is no matter here, decodable or not."""
    for name in ("observed", "auth_requests"):
        with suppress(Absent):
            getattr(mesh, name).drop()
