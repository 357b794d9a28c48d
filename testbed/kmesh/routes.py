"""Destinations that a connect hook looks up: each address of the lab is its own backend.

Without an entry such a hook leaves a connection alone, and does not note what the client asked for.
"""

from __future__ import annotations

from testbed.bpf.program_set import ProgramSet
from testbed.kmesh.profile import Profile
from testbed.lab.lab import Lab

_ADDRESS = 16  # an IPv4 address is followed by zeroes


def fill_routes(program_set: ProgramSet, profile: Profile, lab: Lab) -> None:
    """Fills the set's frontend and backend maps, where it has them, with the addresses of a lab.

    A frontend's value is a backend's number; a backend begins with its address (v0.4.0 to main),
    and with the rest zero it is a pod that is reached directly.
    """
    routes = profile.routes
    if routes is None:
        return
    frontend = program_set.maps.get(routes.frontend.name)
    backend = program_set.maps.get(routes.backend.name)
    if frontend is None or backend is None:
        return
    frontend.clear()
    backend.clear()
    addresses = [address for host in lab.hosts.values() for address in host.addresses]
    for number, address in enumerate(addresses, 1):
        key = number.to_bytes(4, "little")
        packed = address.packed.ljust(_ADDRESS, b"\0")
        frontend.set(packed, key)
        backend.set(key, packed.ljust(backend.value_size, b"\0"))
