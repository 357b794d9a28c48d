"""Where things stand in the picture of a topology, in character cells: the same for text and SVG.

What hangs together is a row of boxes. Where that is wider than there is room, all is one column, its
links beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from testbed.graph.row import Row
from testbed.graph.shapes import Box, Drawing, Label, Line, box_of, cut, names_at, ports_of, together, tracks
from testbed.graph.sketch import Edge, Sketch

_GAP = 3
_PER_ROW = (8, 6, 4, 2, 1)


def arrange(drawn: Sketch, width: int) -> Drawing:
    """The picture, not wider than ``width`` cells where its boxes allow that."""
    x = y = height = 0
    placed = []
    for names in drawn.components():
        part = _component(drawn, names, width)
        if x and x + part.width > width:
            x, y, height = 0, y + height + 1, 0
        placed.append(part.moved(x, y))
        x, height = x + part.width + _GAP, max(height, part.height)
    return together(placed)


def _component(drawn: Sketch, names: Sequence[str], width: int) -> Drawing:
    for made in _candidates(drawn, names):
        if made.width <= width:
            return made
    return _column(drawn, names)


def _candidates(drawn: Sketch, names: Sequence[str]) -> Iterator[Drawing]:
    """The nicest first."""
    degrees = {name: len(drawn.edges_of(name)) for name in names}
    leaves = {name for name in names if degrees[name] == 1 and degrees[drawn.neighbours(name)[0]] > 1}
    ends = [name for name in names if degrees[name] == 1]
    if max(degrees.values()) <= 2 and (len(ends) == 2 or len(names) == 1):
        yield Row(drawn, _in_a_row(drawn, names, ends or names), set()).drawing()
    core = [name for name in names if name not in leaves]
    order = _in_a_row(drawn, core, core[:1])
    most = max((sum(leaf in leaves for leaf in drawn.neighbours(name)) for name in core), default=0)
    for per_row in _PER_ROW:
        if per_row < 2 * most or per_row == 1:
            yield Row(drawn, order, leaves, per_row).drawing()


def _in_a_row(drawn: Sketch, names: Sequence[str], first: Sequence[str]) -> list[str]:
    """Neighbours beside each other as far as that goes: each after the one that leads to it."""
    ends = [name for name in names if sum(other in names for other in drawn.neighbours(name)) == 1]
    waiting = list(first if first[0] in ends or not ends else ends)[:1]
    found: list[str] = []
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.append(name)
            waiting += [each for each in reversed(drawn.neighbours(name)) if each in names]
    return found


def _port_words(edge: Edge, upper: str) -> tuple[str, str]:
    one, other = names_at(edge, upper)
    return cut(" ".join(filter(None, (one, *edge.notes))), 40), other


def _column(drawn: Sketch, names: Sequence[str]) -> Drawing:
    """All of them below each other, the links beside them."""
    order = _in_a_row(drawn, names, names[:1])
    place = {name: number for number, name in enumerate(order)}
    inner = [edge for edge in drawn.edges if edge.a in place and edge.b in place and edge.a != edge.b]
    ports = ports_of(inner, place)
    boxes: dict[str, Box] = {}
    y = 0
    for name in order:
        box = box_of(drawn.nodes[name])
        count = sum(name in {edge.a, edge.b} for edge in inner)
        boxes[name] = box = replace(box, h=max(box.h, count + 2), y=y)
        y += box.h + 1
    right = max(box.w for box in boxes.values())
    room = max((len(word) for edge in inner for word in _port_words(edge, edge.a)), default=0) + 4
    boxes = {name: replace(box, w=right) for name, box in boxes.items()}
    ends = [
        sorted((boxes[name].y + 1 + ports[number, name], name) for name in (edge.a, edge.b))
        for number, edge in enumerate(inner)
    ]
    lines = []
    for edge, track, ((top, upper), (bottom, _)) in zip(
        inner, tracks((top, bottom) for (top, _), (bottom, _) in ends), ends, strict=True
    ):
        x = right + room + 2 * track
        words = zip((top, bottom), _port_words(edge, upper), strict=True)
        labels = [Label(right + 1, y, word, edge.failing) for y, word in words if word]
        points = ((right - 1, top), (x, top), (x, bottom), (right - 1, bottom))
        lines.append(Line(edge, points, tuple(labels)))
    return together([Drawing(tuple(boxes.values()), tuple(lines), 0, 0)])
