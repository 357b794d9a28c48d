"""The lifelines of a story's diagram: hosts from clients to servers, a wire between two, the maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from testbed.observe.events import Kind, Story
from testbed.report.shown import on_a_line

FIRST = 172  # pixels: to the left of the first lifeline are time and connection
_HOST = 380
_MAPS = 330
_RIGHT = 440
_EACH = 6  # more hosts than that share lifelines, by what they are
_NOBODY = "(unknown host)"
_IN_MAPS = {Kind.RECORD, Kind.CHANGE}


class LineKind(StrEnum):
    """What a lifeline is of."""

    HOST = "host"
    WIRE = "wire"
    MAPS = "maps"


@dataclass(frozen=True)
class Lifeline:
    """One of them: where it is, and what stands above it."""

    x: int
    name: str
    kind: LineKind
    role: str = ""


class _Part(StrEnum):
    CLIENT = "clients"
    BETWEEN = "in between"
    SERVER = "servers"


class Lifelines:
    """Where each host of a story stands."""

    def __init__(self, story: Story) -> None:
        self._parts = _parts(story)
        ordered = sorted(self._parts, key=lambda host: [*_Part].index(self._parts[host]))
        self.shared = len(ordered) > _EACH
        self._names = [*dict.fromkeys(map(self._named, ordered))] or [_NOBODY]
        self._x = {name: FIRST + place * _HOST for place, name in enumerate(self._names)}
        self.maps = max(self._x.values()) + (_MAPS if len(self._names) > 1 else _MAPS + _HOST // 2)
        self.width = self.maps + _RIGHT
        self.numbered = len(story.connections) > 1

    def _named(self, host: str) -> str:
        return self._parts[host].value if self.shared else host

    def x_of(self, host: str | None) -> int:
        """Where a host stands; that of the first where nobody knows whose it is."""
        name = host if host is not None else _NOBODY
        return self._x.get(self._named(name) if name in self._parts else name, FIRST)

    def wire(self, one: str | None, other: str | None) -> int:
        """The middle between two hosts; the first wire where either is not known, or they are the same."""
        a, b = self.x_of(one), self.x_of(other)
        return FIRST + _HOST // 2 if one is None or other is None or a == b else (a + b) // 2

    @cached_property
    def all(self) -> tuple[Lifeline, ...]:
        return tuple(sorted(self._lines(), key=lambda line: line.x))

    def _lines(self) -> Iterator[Lifeline]:
        counts = {name: sum(self._named(host) == name for host in self._parts) for name in self._names}
        for name, x in self._x.items():
            part = self._parts.get(name, "")
            role = f"{counts[name]} hosts" if self.shared else part.removesuffix("s")
            yield Lifeline(x, on_a_line(name, 24), LineKind.HOST, "" if role == name else role)
            if name != self._names[-1] or len(self._names) == 1:
                yield Lifeline(x + _HOST // 2, "wire", LineKind.WIRE)
        yield Lifeline(self.maps, "maps and rings", LineKind.MAPS)


def _parts(story: Story) -> dict[str, _Part]:
    """What each host is: of one that is several things, the first that it was."""
    found: dict[str, _Part] = {}
    for connection in story.connections:
        for host, part in ((connection.client, _Part.CLIENT), (connection.server, _Part.SERVER)):
            if host is not None:
                found.setdefault(host, part)
    for each in story.events():
        if each.host is None and each.kind not in {*_IN_MAPS, Kind.SEGMENT, Kind.GATE}:
            found.setdefault(_NOBODY, _Part.BETWEEN)
        for host in (each.host, each.to):
            if host is not None:
                found.setdefault(host, _Part.BETWEEN)
    return found
