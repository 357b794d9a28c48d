"""What the kernel is asked for to wire a topology: worked out once, the same for every lab of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from testbed.kernel.links import (
    FORWARDING_SYSCTLS,
    LATE_FORWARDING_SYSCTLS,
    End,
    bridge,
    bring_up,
    loopback_up,
)
from testbed.kernel.netlink import Message
from testbed.kernel.routes import Network, behind_port, neighbour, route
from testbed.topology.fields import Address
from testbed.topology.model import EndSpec, HostSpec, LinkSpec, Topology
from testbed.topology.segments import Segment, segments

_FIRST_INDEX = 2  # behind the loopback's


@dataclass(frozen=True)
class Wire:
    """A link: each end, and the host that it is in. The first host's namespace makes both."""

    host: str
    end: End
    peer_host: str
    peer: End


@dataclass(frozen=True)
class Neighbourhood:
    """A segment with a bridge in it: each end that has addresses there, and each port with who is behind it.

    On a link by itself both ends have one MAC, and nothing of this is needed.
    """

    ends: tuple[tuple[str, End], ...]
    behind: tuple[tuple[str, End, tuple[End, ...]], ...]


@dataclass(frozen=True)
class Wiring:
    """Every link, and the ends of each host in order: eth0, eth1, …, then its bridges."""

    topology: Topology
    wires: tuple[Wire, ...]
    ends: Mapping[str, tuple[End, ...]]
    neighbourhoods: tuple[Neighbourhood, ...]

    @cached_property
    def sysctls(self) -> Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]]:
        """By host, where it has any: those to set before it has devices, and those for once it has them."""
        found: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        for name, host in self.topology.hosts.items():
            early = dict(FORWARDING_SYSCTLS) if host.forwarding else {}
            late = dict(LATE_FORWARDING_SYSCTLS) if host.forwarding else {}
            for dotted, value in host.sysctls.items():
                sysctl = dotted.replace(".", "/")
                (late if sysctl in late or _is_of_device(sysctl) else early)[sysctl] = value
            if early or late:
                found[name] = (early, late)
        return found

    @cached_property
    def up(self) -> Mapping[str, list[Message]]:
        """By host: all of it up, with its addresses, routes and neighbours."""
        found = {name: self._up_of(name) for name in self.topology.hosts}
        for each in self.neighbourhoods:
            for name, port, behind in each.behind:
                found[name] += [behind_port(port, end.mac) for end in behind]
            for name, end in each.ends:
                found[name] += known(end, (other for _, other in each.ends))
        return found

    def around_bridges(self, index: int) -> list[tuple[str, End]]:
        """The other ends on the bridge that an end is behind, by their hosts; none where it is on a link."""
        for each in self.neighbourhoods:
            if any(end.index == index for _, end in each.ends):
                return [(name, end) for name, end in each.ends if end.index != index]
        return []

    def _up_of(self, name: str) -> list[Message]:
        host = self.topology.hosts[name]
        ends = self.ends[name]
        messages = [loopback_up()] if ends else []
        messages += [bridge(end) for end in ends if end.name in host.bridges]
        for end in ends:
            messages += bring_up(end)
        return messages + self._routes_of(name, host)

    def _routes_of(self, name: str, host: HostSpec) -> list[Message]:
        messages: list[Message] = []
        if host.gateway is not None:
            messages += [route(end, hop) for end, hop in self._hops(name, host.gateway)]
        for to, via in host.routes.items():
            networks = self._networks(to)
            for end, hop in self._hops(name, via):
                messages += [
                    route(end, hop, network) for network in networks if network.version == hop.version
                ]
        return messages

    def _networks(self, to: str) -> list[Network]:
        if "/" in to:
            return [ipaddress.ip_network(to)]
        return [ipaddress.ip_network(ip) for end in self.ends[to] for ip in end.ips]

    def _hops(self, name: str, via: str) -> list[tuple[End, Address]]:
        """Each address of a neighbour (or the one that is said), with the own end that it is reached from."""
        if via in self.topology.hosts:
            return [
                (end, ip)
                for end, around in self._around[name]
                for peer in around.get(via, ())
                for ip in peer.ips
            ]
        hop = ipaddress.ip_address(via)
        return [
            (end, hop)
            for end, around in self._around[name]
            for other, peers in around.items()
            if other != name and any(hop in peer.ips for peer in peers)
        ]

    @cached_property
    def _around(self) -> Mapping[str, list[tuple[End, Mapping[str, list[End]]]]]:
        """By host: each of its ends, with all ends that are around it, by host."""
        found: dict[str, list[tuple[End, Mapping[str, list[End]]]]] = {name: [] for name in self.ends}
        groups: list[Sequence[tuple[str, End]]] = [
            ((wire.host, wire.end), (wire.peer_host, wire.peer))
            for wire in self.wires
            if wire.end.port_of is None and wire.peer.port_of is None
        ]
        for group in [*groups, *(each.ends for each in self.neighbourhoods)]:
            around: dict[str, list[End]] = {}
            for name, end in group:
                around.setdefault(name, []).append(end)
                found[name].append((end, around))
        return found


def known(end: End, others: Iterable[End]) -> list[Message]:
    """The others' MACs to an end, by their addresses."""
    return [neighbour(end, ip, other.mac) for other in others if other is not end for ip in other.ips]


def _is_of_device(sysctl: str) -> bool:
    """``net/ipv4/conf/eth0/rp_filter``: there only once eth0 is."""
    parts = sysctl.split("/")
    return len(parts) > 3 and parts[2] in {"conf", "neigh"} and parts[3] not in {"all", "default", "lo"}


@lru_cache(maxsize=64)
def wire(topology: Topology) -> Wiring:
    """Each end has an index of its own in the whole lab.

    The ends of a link have one MAC for both, unless one is the port of a bridge: see
    `testbed.kernel.links`.
    """
    return _Wirer(topology).wiring()


class _Wirer:
    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.ends: dict[str, list[End]] = {name: [] for name in topology.hosts}
        first = _FIRST_INDEX + 2 * len(topology.links)
        bridges = [(name, bridge) for name, host in topology.hosts.items() for bridge in host.bridges]
        self.bridges = {
            (name, bridge): End(
                bridge,
                first + number,
                _mac(2, number),
                topology.hosts[name].bridges[bridge],
                forwards=topology.hosts[name].forwarding,
            )
            for number, (name, bridge) in enumerate(bridges)
        }

    def wiring(self) -> Wiring:
        wires = tuple(self._wire(number, link) for number, link in enumerate(self.topology.links))
        for (name, _), end in self.bridges.items():
            self.ends[name].append(end)
        ends = {name: tuple(each) for name, each in self.ends.items()}
        shared = [each for each in segments(self.topology.hosts, self.topology.links)[0] if each.is_shared]
        return Wiring(self.topology, wires, ends, tuple(self._neighbourhood(each, wires) for each in shared))

    def _wire(self, number: int, link: LinkSpec) -> Wire:
        one, other = link.ends
        index = _FIRST_INDEX + 2 * number
        return Wire(
            one.host,
            self._end(one, index, _mac(1 if one.bridge else 0, number), link.mtu),
            other.host,
            self._end(other, index + 1, _mac(_kind_of_peer(one, other), number), link.mtu),
        )

    def _end(self, spec: EndSpec, index: int, mac: str, mtu: int | None) -> End:
        ends = self.ends[spec.host]
        end = End(
            f"eth{len(ends)}",
            index,
            mac,
            spec.addresses,
            mtu,
            None if spec.bridge is None else self.bridges[spec.host, spec.bridge].index,
            self.topology.hosts[spec.host].forwarding,
        )
        ends.append(end)
        return end

    def _neighbourhood(self, segment: Segment, wires: Sequence[Wire]) -> Neighbourhood:
        """Who is behind a port: the end there; or, where there is another bridge, all on that one's side."""
        devices = [(name, self.bridges[name, bridge]) for name, bridge in segment.bridges]
        within = [wires[number] for number in segment.links]
        ends = list(devices)
        for each in within:
            ends += [
                (name, end)
                for name, end in ((each.host, each.end), (each.peer_host, each.peer))
                if end.port_of is None
            ]
        beyond = _Beyond(within, [end for _, end in devices])
        behind = [
            (name, port, tuple(beyond.of(port, peer)))
            for each in within
            for name, port, peer in (
                (each.host, each.end, each.peer),
                (each.peer_host, each.peer, each.end),
            )
            if port.port_of is not None
        ]
        return Neighbourhood(tuple(ends), tuple(behind))


class _Beyond:
    """What is behind a port of a bridge. Bridges make up a tree, so a walk away from the port ends."""

    def __init__(self, wires: Sequence[Wire], devices: Sequence[End]) -> None:
        self._devices = {device.index: device for device in devices}
        self._ports: dict[int, list[tuple[End, End]]] = {device.index: [] for device in devices}
        for each in wires:
            for port, peer in ((each.end, each.peer), (each.peer, each.end)):
                if port.port_of is not None:
                    self._ports[port.port_of].append((port, peer))

    def of(self, port: End, peer: End) -> list[End]:
        found: list[End] = []
        ways = [(port, peer)]
        while ways:
            _, far = ways.pop()
            if far.port_of is None:
                found.append(far)
            else:
                found.append(self._devices[far.port_of])
                ways += [(near, next_) for near, next_ in self._ports[far.port_of] if near is not far]
        return found


def _kind_of_peer(one: EndSpec, other: EndSpec) -> int:
    """A MAC of its own for the second of two ports; for a port beside an end; else the first one's."""
    return 3 if one.bridge and other.bridge else 1 if other.bridge else 0


def _mac(kind: int, number: int) -> str:
    return f"02:00:00:{kind:02x}:{number >> 8:02x}:{number & 0xFF:02x}"
