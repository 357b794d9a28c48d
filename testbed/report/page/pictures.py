"""The pictures of topologies on a page: each is in it once, however many stories show it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from markupsafe import Markup
from pydantic import ValidationError

from testbed.graph.sketch import Marks
from testbed.graph.svg import draw_svg
from testbed.topology.model import Topology

_SIZE = re.compile(r'width="(\d+)" height="(\d+)"')
_MOST = 60  # different pictures on one page


@dataclass(frozen=True)
class Picture:
    """One of them; ``id`` is what the places that show it refer to."""

    id: str
    svg: Markup
    width: int
    height: int
    words: str


class Pictures:
    """Draws topologies as they are asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Marks], Picture | None] = {}

    @property
    def all(self) -> list[Picture]:
        return [picture for picture in self._known.values() if picture is not None]

    def of_story(self, topology: dict[str, object], marks: Marks) -> Picture | None:
        """None for what is no topology, as one of another version may be, and beyond sixty."""
        if not topology:
            return None
        key = (json.dumps(topology, sort_keys=True, default=str), marks)
        if key not in self._known:
            try:
                self._known[key] = self._draw(Topology.model_validate(topology), marks)
            except ValidationError:
                self._known[key] = None
        return self._known[key]

    def of_topology(self, topology: Topology) -> Picture | None:
        """Without marks."""
        key = (json.dumps(topology.as_dict(), sort_keys=True), Marks())
        if key not in self._known:
            self._known[key] = self._draw(topology, Marks())
        return self._known[key]

    def _draw(self, topology: Topology, marks: Marks) -> Picture | None:
        if len(self._known) >= _MOST:
            return None
        svg = draw_svg(topology, marks, standalone=False)
        size = _SIZE.search(svg)
        assert size is not None, "every picture has a size"
        failing = sorted(marks.hosts & {*topology.hosts})
        failing += [f"the link {one} – {other}" for one, other in sorted(marks.links)]
        words = f"topology {topology.name}" + (f"; failing: {', '.join(failing)}" if failing else "")
        number = len(self.all) + 1
        return Picture(f"topology-{number}", Markup(svg), int(size[1]), int(size[2]), words)  # noqa: S704
