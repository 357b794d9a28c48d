"""The frames of a story as pcapng, with what happened around them as comments."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence

from testbed.observe.capture import Frame
from testbed.observe.events import Kind, Story
from testbed.observe.pcapng import write_pcapng

_TOLD = {Kind.CALLBACK, Kind.RECORD, Kind.CHANGE, Kind.GATE}


def packets(story: Story, frames: Sequence[Frame], link_names: Sequence[str]) -> bytes:
    """A pcapng file. What happened to a connection is a comment on its last segment before that; what
    came before its first segment is on that one.
    """
    to = io.BytesIO()
    write_pcapng(to, frames, comments(story, frames), story.wall_ns, link_names)
    return to.getvalue()


def comments(story: Story, frames: Sequence[Frame]) -> dict[int, list[str]]:
    """By a frame's number: ``client: ACTIVE_ESTABLISHED``."""
    numbers = {(frame.time_ns, frame.link): number for number, frame in enumerate(frames)}
    found: defaultdict[int, list[str]] = defaultdict(list)
    for connection in story.connections:
        last: int | None = None
        waiting: list[str] = []
        for each in connection.events:
            if each.kind is Kind.SEGMENT:
                last = numbers.get((each.time_ns, _link(each.details.get("link"))), last)
            elif each.kind in _TOLD:
                waiting.append(f"{each.host}: {each.text}" if each.host else each.text)
            if last is not None:
                found[last] += waiting
                waiting.clear()
    return {number: texts for number, texts in found.items() if texts}


def _link(number: object) -> int:
    return number if isinstance(number, int) else -1
