"""A topology as a terminal shows it."""

from __future__ import annotations

from itertools import pairwise

from testbed.graph.layout import arrange
from testbed.graph.shapes import Box, Drawing, Line
from testbed.graph.sketch import Marks, sketch
from testbed.topology.model import Topology

_WIDTH = 100
# By the sides that lines go to (up 1, down 2, left 4, right 8): thin, double across, double down, double.
_CHARS = {
    1: "││║║", 2: "││║║", 3: "││║║", 4: "─═─═", 8: "─═─═", 12: "─═─═",
    10: "┌╒╓╔", 6: "┐╕╖╗", 9: "└╘╙╚", 5: "┘╛╜╝",
    11: "├╞╟╠", 7: "┤╡╢╣", 14: "┬╤╥╦", 13: "┴╧╨╩", 15: "┼╪╫╬",
}  # fmt: skip
_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8


def draw_text(topology: Topology, marks: Marks | None = None, width: int = _WIDTH) -> str:
    """The picture in box characters, no line end behind it. What fails has double lines, and says so."""
    drawn = sketch(topology, marks or Marks())
    canvas = _Canvas(arrange(drawn, width))
    return "\n".join([f"{drawn.name}:", *canvas.lines(), *drawn.notes])


class _Canvas:
    """Which sides lines go to from each cell, and the words on top of them."""

    def __init__(self, drawing: Drawing) -> None:
        self._sides: dict[tuple[int, int], int] = {}
        self._double: dict[tuple[int, int], int] = {}
        self._words: dict[tuple[int, int], str] = {}
        self._size = drawing.width, drawing.height
        for box in drawing.boxes:
            self._frame(box)
        for line in drawing.lines:
            self._line(line)
        for box in drawing.boxes:
            for place, (_, text) in enumerate(box.node.lines):
                self._write(box.x + 2, box.y + 1 + place, text)
        for line in drawing.lines:
            self._labels(line)

    def lines(self) -> list[str]:
        width, height = self._size
        rows = ("".join(self._at(x, y) for x in range(width)) for y in range(height))
        return [row.rstrip() for row in rows]

    def _at(self, x: int, y: int) -> str:
        if (x, y) in self._words:
            return self._words[x, y]
        sides = self._sides.get((x, y), 0)
        if not sides:
            return " "
        double = self._double.get((x, y), 0)
        style = bool(double & (_LEFT | _RIGHT)) + 2 * bool(double & (_UP | _DOWN))
        return _CHARS[sides][style]

    def _frame(self, box: Box) -> None:
        right, bottom = box.x + box.w - 1, box.y + box.h - 1
        corners = [(box.x, box.y), (right, box.y), (right, bottom), (box.x, bottom), (box.x, box.y)]
        for one, other in pairwise(corners):
            self._stroke(one, other, box.node.failing)

    def _line(self, line: Line) -> None:
        for one, other in pairwise(line.points):
            self._stroke(one, other, line.edge.failing)

    def _stroke(self, one: tuple[int, int], other: tuple[int, int], double: bool) -> None:
        """From the middle of one cell to that of another in its row or column."""
        (x, y), (to_x, to_y) = min(one, other), max(one, other)
        while (x, y) != (to_x, to_y):
            across = x != to_x
            self._go(x, y, _RIGHT if across else _DOWN, double)
            x, y = (x + 1, y) if across else (x, y + 1)
            self._go(x, y, _LEFT if across else _UP, double)

    def _go(self, x: int, y: int, side: int, double: bool) -> None:
        self._sides[x, y] = self._sides.get((x, y), 0) | side
        if double:
            self._double[x, y] = self._double.get((x, y), 0) | side

    def _labels(self, line: Line) -> None:
        on_line = {y for x, y in line.points}
        for label in line.labels:
            padded = f" {label.text} " if label.y in on_line else label.text
            self._write(label.x - (label.y in on_line), label.y, padded)

    def _write(self, x: int, y: int, text: str) -> None:
        for place, character in enumerate(text):
            self._words[x + place, y] = character
