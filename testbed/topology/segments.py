"""Which ends reach each other without a router: those of one link, and all that a bridge joins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testbed.topology.fields import Interface
    from testbed.topology.model import EndSpec, HostSpec, LinkSpec


@dataclass(frozen=True)
class Member:
    """Who has addresses on a segment: an end that is no port (``end`` 0 or 1), or a bridge's device."""

    host: str
    addresses: tuple[Interface, ...]
    link: int = -1
    end: int = -1
    bridge: str | None = None
    is_given: bool = True
    """Whether its addresses were said, be it that it has none."""


@dataclass
class Segment:
    """Its members, bridges before ends. ``links`` are those that it consists of, ``bridges`` too."""

    members: list[Member] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    bridges: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_shared(self) -> bool:
        """Whether a bridge is in it, so that the far end of a link is not the only neighbour."""
        return bool(self.bridges)


def segments(
    hosts: Mapping[str, HostSpec | None], links: Sequence[LinkSpec | None]
) -> tuple[list[Segment], list[int]]:
    """All of them, in order of their first bridge or link; and the links that close a loop of bridges.

    Hosts and links that could not be read are None, and left out.
    """
    of_bridge = {
        (name, bridge): Segment(
            [Member(name, addresses, bridge=bridge, is_given=bool(addresses))], bridges=[(name, bridge)]
        )
        for name, host in hosts.items()
        if host is not None
        for bridge, addresses in host.bridges.items()
    }
    found: list[Segment] = []
    loops: list[int] = []
    for number, link in enumerate(links):
        if link is None:
            continue
        ports = [
            of_bridge[end.host, end.bridge]
            for end in link.ends
            if end.bridge is not None and (end.host, end.bridge) in of_bridge
        ]
        if len(ports) == 2 and ports[0] is ports[1]:
            loops.append(number)
            continue
        segment = ports[0] if ports else Segment()
        if not ports:
            found.append(segment)
        segment.links.append(number)
        segment.members += _members(link, number)
        if len(ports) == 2:
            _join(segment, ports[1], of_bridge)
    bridged = {id(segment): segment for segment in of_bridge.values()}
    return sorted([*bridged.values(), *found], key=_first), loops


def _members(link: LinkSpec, number: int) -> Iterator[Member]:
    for which, end in enumerate(link.ends):
        if end.bridge is None:
            yield Member(
                end.host,
                end.addresses,
                number,
                which,
                is_given="addresses" in end.model_fields_set,
            )


def _join(one: Segment, other: Segment, of_bridge: dict[tuple[str, str], Segment]) -> None:
    for name in other.bridges:
        of_bridge[name] = one
    one.links += other.links
    one.links.sort()
    one.bridges += other.bridges
    one.members += other.members
    one.members.sort(key=lambda member: member.link)  # the bridges first


def _first(segment: Segment) -> int:
    return min(segment.links, default=1 << 30)


class Near:
    """Who reaches whom without a router."""

    def __init__(self, hosts: Mapping[str, HostSpec | None], links: Sequence[LinkSpec | None]) -> None:
        from testbed.topology.model import EndSpec

        self._around: dict[str, list[Mapping[str, EndSpec]]] = {name: [] for name in hosts}
        for segment in segments(hosts, links)[0]:
            ends = {
                member.host: EndSpec.model_construct(
                    host=member.host, addresses=member.addresses, bridge=member.bridge
                )
                for member in segment.members
            }
            for name in ends:
                self._around.setdefault(name, []).append(ends)

    def end(self, host: str, other: str) -> EndSpec | None:
        """The end of a neighbour of a host, None when it is none."""
        found = [ends[other] for ends in self._around.get(host, ()) if other in ends and other != host]
        return found[-1] if found else None

    def of(self, host: str) -> dict[str, EndSpec]:
        """Every neighbour of a host, by name."""
        return {
            name: end for ends in self._around.get(host, ()) for name, end in ends.items() if name != host
        }
