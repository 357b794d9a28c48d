"""What is in the picture of a topology: a node for each host, an edge for each link; of many alike, a few."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count

from testbed.topology.model import HostSpec, LinkSpec, Topology

_ALIKE = 8  # hosts at one end of a link each, or sets of hosts: that many are all drawn
_SHOWN = 2  # of sets of hosts that are more than that
_SHOWN_LEAVES = 6
_FAILING = "✗ failing"
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Marks:
    """What is not as it should be: hosts by name, links by their two hosts in either order."""

    hosts: frozenset[str] = frozenset()
    links: frozenset[tuple[str, str]] = frozenset()

    def has_link(self, one: str, other: str) -> bool:
        return (one, other) in self.links or (other, one) in self.links


class LineKind(StrEnum):
    """What a line in a host's box is."""

    NAME = "name"
    TAGS = "tags"
    FAILING = "failing"
    ADDRESS = "address"


@dataclass(frozen=True)
class Node:
    """A host's box. ``stands_for`` is how many hosts it tells of that are not drawn: 0 of a host itself."""

    name: str
    lines: tuple[tuple[LineKind, str], ...]
    failing: bool = False
    stands_for: int = 0


@dataclass(frozen=True)
class Edge:
    """A link: its two nodes and the names of the interfaces there; ``notes`` are what is odd about it."""

    a: str
    b: str
    a_name: str = ""
    b_name: str = ""
    notes: tuple[str, ...] = ()
    failing: bool = False

    def other(self, name: str) -> str:
        return self.b if name == self.a else self.a


@dataclass(frozen=True)
class Sketch:
    """Nodes by name, edges; ``notes`` stand below: what is attached, and how many more there are."""

    name: str
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    notes: tuple[str, ...] = ()

    def edges_of(self, name: str) -> list[Edge]:
        return [edge for edge in self.edges if name in {edge.a, edge.b}]

    def neighbours(self, name: str) -> list[str]:
        return list(dict.fromkeys(edge.other(name) for edge in self.edges_of(name)))

    def components(self) -> list[list[str]]:
        """What hangs together, each in the order of the file."""
        beside: dict[str, list[str]] = {name: [] for name in self.nodes}
        for edge in self.edges:
            beside[edge.a].append(edge.b)
            beside[edge.b].append(edge.a)
        number: dict[str, int] = {}
        for first in self.nodes:
            waiting = [] if first in number else [first]
            mine = len(number)
            while waiting:
                name = waiting.pop()
                if name not in number:
                    number[name] = mine
                    waiting += beside[name]
        found: dict[int, list[str]] = {}
        for name in self.nodes:
            found.setdefault(number[name], []).append(name)
        return list(found.values())


def sketch(topology: Topology, marks: Marks) -> Sketch:
    """The whole of it. What is failing is always in it; of more than eight that are alike, only the first."""
    counters = {name: count() for name in topology.hosts}
    ends: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {name: [] for name in topology.hosts}
    edges = []
    for link in topology.links:
        names = []
        for end in link.ends:
            names.append(f"eth{next(counters[end.host])}")
            ends[end.host].append((names[-1], end.bridge or "", tuple(map(str, end.addresses))))
        one, other = (end.host for end in link.ends)
        failing = marks.has_link(one, other)
        notes = ((_FAILING,) if failing else ()) + tuple(_notes(link))
        edges.append(Edge(one, other, names[0], names[1], notes, failing))
    nodes = {
        name: Node(name, tuple(_lines(name, host, ends[name], name in marks.hosts)), name in marks.hosts)
        for name, host in topology.hosts.items()
    }
    drawn = Sketch(topology.name, nodes, tuple(edges), tuple(_attached(topology)))
    return _fold_leaves(_fold_components(drawn))


def _notes(link: LinkSpec) -> Iterator[str]:
    """A name of its own, and what the link does to packets."""
    usual = re.escape("-".join(end.host for end in link.ends))
    if link.name and not re.fullmatch(rf"{usual}(-\d+)?", link.name):
        yield link.name
    if link.mtu:
        yield f"MTU {link.mtu}"
    if link.impair:
        yield from (f"{name} {value}" for name, value in link.impair if value is not None)


def _attached(topology: Topology) -> Iterator[str]:
    for programs in topology.programs:
        what = ", ".join(filter(None, (programs.set and f"the {programs.set} set", *programs.objects)))
        yield f"attached to {programs.at}: {what}"


def _lines(
    name: str, host: HostSpec, ends: Sequence[tuple[str, str, tuple[str, ...]]], failing: bool
) -> Iterator[tuple[LineKind, str]]:
    yield LineKind.NAME, name
    tags: list[str] = [host.role] if host.role and not name.startswith(host.role) else []
    tags += ["forwards"] if host.forwarding and host.role not in {"router", "gateway", "node"} else []
    tags += ["● managed"] if host.managed else []
    if tags:
        yield LineKind.TAGS, ", ".join(tags)
    if failing:
        yield LineKind.FAILING, _FAILING
    for interface, bridge, addresses in ends:
        if not bridge and addresses:
            yield from _addressed(interface, addresses)
    for own, interfaces in host.bridges.items():
        yield from _addressed(own, [str(interface) for interface in interfaces])
        if ports := [interface for interface, of, _ in ends if of == own]:
            joined = ports[0] if len(ports) == 1 else f"{ports[0]} … {ports[-1]}"
            yield LineKind.ADDRESS, f"      joins {joined}"


def _addressed(interface: str, addresses: Sequence[str]) -> Iterator[tuple[LineKind, str]]:
    for place, address in enumerate(addresses or [""]):
        yield LineKind.ADDRESS, f"{'' if place else interface:<5} {address}".rstrip()


def _pattern(name: str) -> str:
    return _NUMBER.sub("#", name)


def _without(drawn: Sketch, gone: Iterable[str]) -> Sketch:
    left_out = set(gone)
    nodes = {name: node for name, node in drawn.nodes.items() if name not in left_out}
    edges = tuple(edge for edge in drawn.edges if not left_out & {edge.a, edge.b})
    return replace(drawn, nodes=nodes, edges=edges)


def _fold_components(drawn: Sketch) -> Sketch:
    """Of sets of hosts that are wired alike, the first two, and those with something that fails."""
    alike: dict[tuple[object, ...], list[list[str]]] = {}
    wired: dict[str, list[Edge]] = {name: [] for name in drawn.nodes}
    for edge in drawn.edges:
        wired[edge.a].append(edge)
    for names in drawn.components():
        edges = [(_pattern(edge.a), _pattern(edge.b)) for name in names for edge in wired[name]]
        key = (*sorted(map(_pattern, names)), *sorted(edges))
        alike.setdefault(key, []).append(names)
    failing = {name for name, node in drawn.nodes.items() if node.failing}
    failing |= {edge.a for edge in drawn.edges if edge.failing}
    gone: list[str] = []
    notes = list(drawn.notes)
    for group in alike.values():
        if len(group) <= _ALIKE // 2:
            continue
        fine = [names for names in group[_SHOWN:] if not failing.intersection(names)]
        gone += [name for names in fine for name in names]
        notes.append(f"… and {len(fine)} more like {' – '.join(group[0][:3])}")
    return replace(_without(drawn, gone), notes=tuple(notes))


def _fold_leaves(drawn: Sketch) -> Sketch:
    """Of hosts that have but one link, to the same host, the first six: a box tells of the others."""
    degrees = Counter(name for edge in drawn.edges for name in (edge.a, edge.b))
    alike: dict[tuple[str, str], list[Edge]] = {}
    for edge in drawn.edges:
        for leaf, hub in ((edge.a, edge.b), (edge.b, edge.a)):
            if degrees[leaf] == 1 and degrees[hub] > 1:
                alike.setdefault((hub, _pattern(leaf)), []).append(edge)
    for (hub, _), edges in alike.items():
        fine = [edge for edge in edges if not edge.failing and not drawn.nodes[edge.other(hub)].failing]
        if len(edges) <= _ALIKE:
            continue
        folded = fine[_SHOWN_LEAVES:]
        if len(folded) < 2:
            continue
        words = f"… and {len(folded)} more"
        like = f"like {fine[0].other(hub)}"
        more = Node(f"{hub}+{like}", ((LineKind.NAME, words), (LineKind.TAGS, like)), stands_for=len(folded))
        drawn = _without(drawn, [edge.other(hub) for edge in folded])
        drawn = replace(
            drawn, nodes={**drawn.nodes, more.name: more}, edges=(*drawn.edges, Edge(hub, more.name))
        )
    return drawn
