"""What the kernel is asked for to wire a topology: worked out once, the same for every lab of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from testbed.kernel.links import End, bring_up, loopback_up
from testbed.kernel.netlink import Message

if TYPE_CHECKING:
    from testbed.lab.topology import EndSpec, Topology

_FIRST_INDEX = 2  # behind the loopback's


@dataclass(frozen=True)
class Wire:
    """A link: each end, and the host that it is in. The first host's namespace makes both."""

    host: str
    end: End
    peer_host: str
    peer: End


@dataclass(frozen=True)
class Wiring:
    """Every link, and the ends of each host in order."""

    topology: Topology
    wires: tuple[Wire, ...]
    ends: Mapping[str, tuple[End, ...]]

    @cached_property
    def up(self) -> Mapping[str, list[Message]]:
        """By host: all of it up, with its addresses and default routes."""
        return {name: self._up_of(name) for name in self.topology.hosts}

    def _up_of(self, name: str) -> list[Message]:
        messages = [loopback_up()] if self.ends[name] else []
        for wire in self.wires:
            for host, end, peer_host, peer in (
                (wire.host, wire.end, wire.peer_host, wire.peer),
                (wire.peer_host, wire.peer, wire.host, wire.end),
            ):
                if host == name:
                    is_gateway = self.topology.hosts[name].gateway == peer_host
                    gateways = [interface.ip for interface in peer.addresses] if is_gateway else []
                    messages += bring_up(end, gateways)
        return messages


def wire(topology: Topology) -> Wiring:
    """The ends of a link have one MAC for both, and each an index of its own in the whole lab."""
    ends: dict[str, list[End]] = {name: [] for name in topology.hosts}
    wires = []
    for number, link in enumerate(topology.links):
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 0xFF:02x}"

        def made(spec: EndSpec, index: int, mac: str = mac) -> End:
            ends[spec.host].append(End(f"eth{len(ends[spec.host])}", index, mac, spec.addresses))
            return ends[spec.host][-1]

        one, other = link
        index = _FIRST_INDEX + 2 * number
        wires.append(Wire(one.host, made(one, index), other.host, made(other, index + 1)))
    return Wiring(topology, tuple(wires), {name: tuple(each) for name, each in ends.items()})
