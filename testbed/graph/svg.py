"""A topology as SVG: the same picture as the text has, for light and dark and for paper."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from testbed.graph.layout import arrange
from testbed.graph.shapes import Box, Drawing
from testbed.graph.sketch import LineKind, Marks, Sketch, sketch
from testbed.topology.model import Topology

_WIDTH = 110
_CELL, _ROW, _EDGE = 8, 18, 10  # pixels: a character, a line, what is left free around it all
STYLE = """\
.topo { --topo-ink: #1d2126; --topo-soft: #5b636d; --topo-card: #ffffff; --topo-line: #79828c;
  --topo-fail: #b3261e; --topo-fail-bg: #fdecea; --topo-ok: #1a7f46; --topo-paper: #fbfbfa; }
@media (prefers-color-scheme: dark) { .topo { --topo-ink: #e4e7ea; --topo-soft: #a4adb7; --topo-card: #1b1f23;
  --topo-line: #7d8893; --topo-fail: #ff8e86; --topo-fail-bg: #3a1d1b; --topo-ok: #6fd394;
  --topo-paper: #14171a; } }
@media print { .topo { --topo-ink: #000; --topo-soft: #333; --topo-card: #fff; --topo-line: #444;
  --topo-fail: #a00; --topo-fail-bg: #fff; --topo-ok: #000; --topo-paper: #fff; } }
.topo text { font: 13px ui-monospace, "Cascadia Mono", "DejaVu Sans Mono", Menlo, monospace;
  fill: var(--topo-ink); white-space: pre; }
.topo .box { fill: var(--topo-card); stroke: var(--topo-line); stroke-width: 1.4; }
.topo .more { stroke-dasharray: 3 4; }
.topo .inner { fill: none; stroke: none; }
.topo .wire { fill: none; stroke: var(--topo-line); stroke-width: 2; stroke-linejoin: round; }
.topo .name { font-weight: 700; } .topo .tags { fill: var(--topo-soft); font-style: italic; }
.topo .tags .on { fill: var(--topo-ok); font-style: normal; }
.topo .label { font-size: 12px; fill: var(--topo-soft); }
.topo .under { fill: var(--topo-paper); }
.topo .note { fill: var(--topo-soft); }
.topo .bad .box, .topo .bad .inner { stroke: var(--topo-fail); stroke-width: 2; }
.topo .bad .box { fill: var(--topo-fail-bg); }
.topo .bad .wire { stroke: var(--topo-fail); stroke-width: 4; stroke-dasharray: 9 5; }
.topo .failing, .topo .bad .label { fill: var(--topo-fail); font-weight: 700; }
"""
"""What the pictures on one page share: a page with a Content-Security-Policy has it among its own styles."""


def draw_svg(topology: Topology, marks: Marks | None = None, *, standalone: bool = True) -> str:
    """The picture; ``standalone`` with its style within, else without it, for a page that has `STYLE`."""
    drawn = sketch(topology, marks or Marks())
    drawing = arrange(drawn, _WIDTH)
    wide = max([drawing.width, *(len(note) for note in drawn.notes)]) * _CELL + 2 * _EDGE
    high = (drawing.height + len(drawn.notes)) * _ROW + 2 * _EDGE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="topo" role="img" viewBox="0 0 {wide} {high}"'
        f' width="{wide}" height="{high}">',
        f"<title>{escape(f'topology {drawn.name}')}</title>",
        f"<desc>{escape(describe(drawn))}</desc>",
        f'<style>{STYLE}</style><rect class="under" width="{wide}" height="{high}"/>' if standalone else "",
        f'<g transform="translate({_EDGE} {_EDGE})">',
        *_lines(drawing),
        *(part for box in drawing.boxes for part in _box(box)),
        *_labels(drawing),
        *(
            f'<text class="note" x="0" y="{(drawing.height + place) * _ROW + 13}">{escape(note)}</text>'
            for place, note in enumerate(drawn.notes)
        ),
        "</g></svg>",
    ]
    return "\n".join(filter(None, parts))


def describe(drawn: Sketch) -> str:
    """The picture in words, for who does not see it."""
    hosts = [
        ", ".join(" ".join(text.replace("✗ ", "").replace("● ", "").split()) for _, text in node.lines)
        for node in drawn.nodes.values()
    ]
    links = [
        f"{edge.a} {edge.a_name} to {edge.b} {edge.b_name} {', '.join(edge.notes)}".replace("✗ ", "").strip()
        for edge in drawn.edges
    ]
    parts = [f"Hosts: {'; '.join(hosts)}.", f"Links: {'; '.join(links)}." if links else "No links."]
    return " ".join([*parts, *drawn.notes])


def _middle(x: int, y: int) -> tuple[int, int]:
    return x * _CELL + _CELL // 2, y * _ROW + _ROW // 2


def _lines(drawing: Drawing) -> Iterator[str]:
    """Those that fail come last: on top."""
    for line in sorted(drawing.lines, key=lambda each: each.edge.failing):
        corners = " ".join("{},{}".format(*_middle(*point)) for point in line.points)
        yield _group(f'<polyline class="wire" points="{corners}"/>', line.edge.failing)


def _group(inner: str, failing: bool) -> str:
    return f'<g class="bad">{inner}</g>' if failing else inner


def _labels(drawing: Drawing) -> Iterator[str]:
    for line in drawing.lines:
        for label in line.labels:
            x, y = label.x * _CELL, label.y * _ROW + 13
            wide = len(label.text) * _CELL + 4
            under = f'<rect class="under" x="{x - 4}" y="{y - 11}" width="{wide}" height="14"/>'
            text = f'{under}<text class="label" x="{x}" y="{y}">{escape(label.text)}</text>'
            yield _group(text, label.failing)


def _box(box: Box) -> Iterator[str]:
    x, y = _middle(box.x, box.y)
    wide, high = (box.w - 1) * _CELL, (box.h - 1) * _ROW
    kind = "box more" if box.node.stands_for else "box"
    parts = [f'<rect class="{kind}" x="{x}" y="{y}" width="{wide}" height="{high}" rx="6"/>']
    if box.node.failing:
        inner = f'x="{x + 4}" y="{y + 4}" width="{wide - 8}" height="{high - 8}" rx="3"'
        parts.append(f'<rect class="inner" {inner}/>')
    for place, (line, text) in enumerate(box.node.lines):
        at = f'x="{(box.x + 2) * _CELL}" y="{(box.y + 1 + place) * _ROW + 13}"'
        words = escape(text)
        if line is LineKind.TAGS:
            words = words.replace("● managed", '<tspan class="on">● managed</tspan>')
        parts.append(f'<text class="{line}" {at} xml:space="preserve">{words}</text>')
    yield _group("".join(parts), box.node.failing)
