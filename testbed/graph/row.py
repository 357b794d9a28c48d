"""Boxes side by side: links that skip a box go above it, hosts with one link hang below theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from testbed.graph.shapes import (
    Box,
    Drawing,
    Label,
    Line,
    box_of,
    cut,
    names_at,
    ports_of,
    together,
    tracks,
    words_of,
)
from testbed.graph.sketch import Edge, Node, Sketch

_GAP = 3
_NOTE = 11  # characters of a note that have room in any case
_LEAST_LINE = 3  # cells of a line between the names at its two ends


class Row:
    """Boxes side by side, with what hangs below each."""

    def __init__(self, drawn: Sketch, order: Sequence[str], leaves: set[str], per_row: int = 8) -> None:
        self._drawn = drawn
        self._order = order
        self._leaves = leaves
        self._per_row = per_row
        self._place = {name: place for place, name in enumerate(order)}
        self.boxes: dict[str, Box] = {}
        self.hung: list[Box] = []
        self.lines: list[Line] = []

    def drawing(self) -> Drawing:
        inner = [edge for edge in self._drawn.edges if edge.a in self._place and edge.b in self._place]
        beside = [edge for edge in inner if abs(self._place[edge.a] - self._place[edge.b]) == 1]
        self._set_boxes(beside)
        for left, right in pairwise(self._order):
            between = [edge for edge in beside if {edge.a, edge.b} == {left, right}]
            y = 1
            for edge in between:
                self.lines.append(_straight(edge, self.boxes[left], self.boxes[right], y))
                y += _rows(edge)
        above = [edge for edge in inner if edge not in beside and edge.a != edge.b]
        self.lines += _arcs(above, self.boxes, self._place)
        return together([Drawing((*self.boxes.values(), *self.hung), tuple(self.lines), 0, 0)])

    def _set_boxes(self, beside: Sequence[Edge]) -> None:
        """Left to right: a box, with room for its links and for what hangs below."""
        x = 0
        before: Box | None = None
        for name in self._order:
            between = [edge for edge in beside if before and {edge.a, edge.b} == {before.node.name, name}]
            sides = (
                sum(_rows(edge) for edge in beside if {edge.a, edge.b} == {name, other})
                for other in self._drawn.neighbours(name)
            )
            box = box_of(self._drawn.nodes[name], max(sides, default=0))
            box = replace(box, w=max(box.w, 4 * self._arched(name) + 1))
            hangs = [leaf for leaf in self._drawn.neighbours(name) if leaf in self._leaves]
            below, reach_left, reach_right = self._hang(box, hangs)
            least = max((_length(edge) for edge in between), default=_GAP)
            at = max(x + reach_left, before.x + before.w + least if before else 0)
            box = box.moved(at, 0)
            self.boxes[name] = before = box
            self.hung += [each.moved(at, 0) for each in below.boxes]
            self.lines += [each.moved(at, 0) for each in below.lines]
            x = at + reach_right + _GAP

    def _arched(self, name: str) -> int:
        """How many links of a box go above others."""
        others = (edge.other(name) for edge in self._drawn.edges_of(name))
        return sum(abs(self._place[name] - self._place.get(other, self._place[name])) > 1 for other in others)

    def _hang(self, hub: Box, names: Sequence[str]) -> tuple[Drawing, int, int]:
        """What hangs below a box at 0, 0; how far it reaches to the left of that, and to the right."""
        boxes: list[Box] = []
        lines: list[Line] = []
        trunk, y = hub.middle, hub.h
        for start in range(0, len(names), self._per_row):
            hung = names[start : start + self._per_row]
            edges = [self._drawn.edges_of(name)[0] for name in hung]
            row = [_hung(self._drawn.nodes[name], edge) for name, edge in zip(hung, edges, strict=True)]
            drop = 1 + max(len(words_of(edge, hub.node.name)) for edge in edges)
            lone = len(names) == 1
            for box, edge in zip(_around(row, trunk, y + drop, lone), edges, strict=True):
                boxes.append(box)
                lines.append(_drop(edge, hub, box, trunk, y))
            y += drop + max(box.h for box in row)
        left = max([0, *(-box.x for box in boxes)])
        right = max([hub.w, *(box.x + box.w for box in boxes)])
        return Drawing(tuple(boxes), tuple(lines), 0, 0), left, right


def _hung(node: Node, edge: Edge) -> Box:
    """A box below its hub, wide enough for the words that stand beside the line to it."""
    words = [min(len(word), _NOTE) for word in words_of(edge, node.name)]
    box = box_of(node)
    return replace(box, w=max([box.w, *(2 * length + 2 for length in words)]))


def _around(row: Sequence[Box], trunk: int, y: int, lone: bool) -> list[Box]:
    """The boxes to the left and to the right of the trunk; a lone one right below it."""
    if lone:
        return [row[0].moved(trunk - row[0].w // 2, y)]
    half = (len(row) + 1) // 2
    placed = []
    x = trunk - 2 - sum(box.w for box in row[:half]) - 2 * (half - 1)
    for place, box in enumerate(row):
        if place == half:
            x = trunk + 2
        placed.append(box.moved(x, y))
        x += box.w + 2
    return placed


def _rows(edge: Edge) -> int:
    return 1 + max(len(edge.notes), 1)


def _drop(edge: Edge, hub: Box, box: Box, trunk: int, y: int) -> Line:
    """From below the hub along the trunk, across, and down to a box; the names stand beside its end."""
    points = [(trunk, hub.h - 1), (trunk, y), (box.middle, y), (box.middle, box.y)]
    if box.middle == trunk:
        points = [points[0], points[-1]]
    room = box.w - box.w // 2 - 1
    labels = [
        Label(box.middle + 2, y + 1 + place, cut(word, room), edge.failing)
        for place, word in enumerate(words_of(edge, hub.node.name))
    ]
    return Line(edge, tuple(points), tuple(labels))


def _length(edge: Edge) -> int:
    """How many cells a straight line needs between two boxes."""
    names = len(edge.a_name) + len(edge.b_name) + 4 + _LEAST_LINE
    return max([names, *(len(note) + 2 for note in edge.notes)])


def _straight(edge: Edge, left: Box, right: Box, y: int) -> Line:
    """From a box to the next; below it what is odd about the link."""
    begin, end = left.x + left.w - 1, right.x
    labels = [*_at_ends(edge, left.node.name, begin, end, y)]
    for place, note in enumerate(edge.notes, 1):
        labels.append(Label((begin + end + 1 - len(note)) // 2, y + place, note, edge.failing))
    return Line(edge, ((begin, y), (end, y)), tuple(labels))


def _at_ends(edge: Edge, left: str, begin: int, end: int, y: int) -> Iterator[Label]:
    one, other = names_at(edge, left)
    found = (Label(begin + 2, y, one, edge.failing), Label(end - 1 - len(other), y, other, edge.failing))
    return (label for label in found if label.text)


def _arcs(edges: Sequence[Edge], boxes: dict[str, Box], place: dict[str, int]) -> Iterator[Line]:
    """Links that go above the boxes in between."""
    ports = ports_of(edges, place)
    ends = []
    for number, edge in enumerate(edges):
        left, right = sorted((edge.a, edge.b), key=lambda name: place[name])
        xs = [boxes[name].x + 2 + 4 * ports[number, name] for name in (left, right)]
        ends.append((left, xs[0], xs[1]))
    for edge, track, (left, begin, end) in zip(
        edges, tracks((begin, end) for _, begin, end in ends), ends, strict=True
    ):
        y = -2 - 2 * track
        labels = [*_at_ends(edge, left, begin, end, y)]
        if edge.notes:
            words = cut(", ".join(edge.notes), max(end - begin - 20, 9))
            labels.append(Label((begin + end - len(words)) // 2, y, words, edge.failing))
        yield Line(edge, ((begin, 0), (begin, y), (end, y), (end, 0)), tuple(labels))
