"""What the picture of a topology is made of, in character cells: boxes, lines, words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from testbed.graph.sketch import Edge, Node


@dataclass(frozen=True)
class Box:
    """A node, with its frame: ``x`` and ``y`` are the frame's first cell, ``w`` and ``h`` take it in."""

    node: Node
    x: int
    y: int
    w: int
    h: int

    @property
    def middle(self) -> int:
        return self.x + self.w // 2

    def moved(self, x: int, y: int) -> Box:
        return replace(self, x=self.x + x, y=self.y + y)


@dataclass(frozen=True)
class Label:
    """Words, the first of them in this cell."""

    x: int
    y: int
    text: str
    failing: bool = False


@dataclass(frozen=True)
class Line:
    """An edge, by its corners; the first and the last lie on the frames of its boxes."""

    edge: Edge
    points: tuple[tuple[int, int], ...]
    labels: tuple[Label, ...]

    def moved(self, x: int, y: int) -> Line:
        labels = tuple(replace(each, x=each.x + x, y=each.y + y) for each in self.labels)
        return replace(self, points=tuple((px + x, py + y) for px, py in self.points), labels=labels)


@dataclass(frozen=True)
class Drawing:
    """All of a picture, ``width`` by ``height`` cells."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    width: int
    height: int

    def moved(self, x: int, y: int) -> Drawing:
        boxes = tuple(box.moved(x, y) for box in self.boxes)
        return Drawing(boxes, tuple(line.moved(x, y) for line in self.lines), self.width, self.height)


def together(parts: Sequence[Drawing]) -> Drawing:
    """One drawing of several; its upper left corner is cell 0, 0."""
    boxes = [box for part in parts for box in part.boxes]
    lines = [line for part in parts for line in part.lines]
    across = [x for box in boxes for x in (box.x, box.x + box.w)]
    down = [y for box in boxes for y in (box.y, box.y + box.h)]
    for line in lines:
        across += [end for x, _ in line.points for end in (x, x + 1)]
        down += [end for _, y in line.points for end in (y, y + 1)]
        across += [end for label in line.labels for end in (label.x, label.x + len(label.text))]
        down += [label.y + 1 for label in line.labels]
    if not boxes:
        return Drawing((), (), 0, 0)
    left, top = min(across), min(down)
    return Drawing(tuple(boxes), tuple(lines), max(across) - left, max(down) - top).moved(-left, -top)


def box_of(node: Node, rows: int = 0) -> Box:
    """A box as large as its lines, and as so many rows of links at a side."""
    wide = max(len(text) for _, text in node.lines)
    return Box(node, 0, 0, wide + 4, max(len(node.lines), rows) + 2)


def names_at(edge: Edge, first: str) -> tuple[str, str]:
    return (edge.a_name, edge.b_name) if edge.a == first else (edge.b_name, edge.a_name)


def words_of(edge: Edge, first: str) -> list[str]:
    return [word for word in (*names_at(edge, first), *edge.notes) if word]


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def tracks(spans: Iterable[tuple[int, int]]) -> list[int]:
    """A track for each span, so that no two on one track touch; the short ones inside."""
    every = list(spans)
    taken: list[list[tuple[int, int]]] = []
    result = [0] * len(every)
    for place in sorted(range(len(every)), key=lambda each: (every[each][1] - every[each][0], each)):
        low, high = every[place]
        track = next(
            (
                number
                for number, others in enumerate(taken)
                if all(high < other_low or other_high < low for other_low, other_high in others)
            ),
            len(taken),
        )
        taken += [[]] if track == len(taken) else []
        taken[track].append((low, high))
        result[place] = track
    return result


def ports_of(edges: Sequence[Edge], place: dict[str, int]) -> dict[tuple[int, str], int]:
    """Which of its box's ports an edge takes: those to the left first, so that arcs do not cross."""
    ports: dict[tuple[int, str], int] = {}
    for name, here in place.items():
        mine = [number for number, edge in enumerate(edges) if name in {edge.a, edge.b}]

        def order(number: int, name: str = name, here: int = here) -> tuple[bool, int, int]:
            reach = place[edges[number].other(name)] - here
            return reach > 0, -reach, number if reach > 0 else -number

        for port, number in enumerate(sorted(mine, key=order)):
            ports[number, name] = port
    return ports
