"""How long calls take, as bars along the lifelines of the hosts that made them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from testbed.observe.events import Event, Kind
from testbed.report.page.lifelines import Lifelines

_WIDTH = 7  # pixels; of calls at the same time, each stands beside the one before
_LANES = 3
_LONGEST = 400  # rows of one bar, so that the page stays as large as its events


class Part(StrEnum):
    """The part of a bar that is in a row."""

    WHOLE = "whole"
    BEGIN = "begin"
    THROUGH = "through"
    END = "end"


@dataclass(frozen=True)
class Bar:
    """A piece of a bar, in one row; ``x`` is its left edge, ``connection`` the number of its call's."""

    x: int
    part: Part
    connection: int


def bars_of(events: Sequence[tuple[Event, int]], lines: Lifelines) -> dict[int, tuple[Bar, ...]]:
    """By place of an event: the pieces of bars in its row."""
    times = [each.time_ns for each, _ in events]
    found: dict[int, list[Bar]] = {}
    busy: dict[int, list[int]] = {}  # by lifeline: the last row of each lane's bar
    for place, (each, connection) in enumerate(events):
        if each.kind is not Kind.CALL:
            continue
        took = each.details.get("took_ns")
        until = each.time_ns + (took if isinstance(took, int) and took > 0 else 0)
        last = min(max(bisect_right(times, until) - 1, place), place + _LONGEST)
        x = lines.x_of(each.host)
        lanes = busy.setdefault(x, [-1] * _LANES)
        lane = next((number for number, end in enumerate(lanes) if end < place), _LANES - 1)
        lanes[lane] = max(lanes[lane], last)
        for row in range(place, last + 1):
            part = Part.THROUGH
            if row == place:
                part = Part.WHOLE if row == last else Part.BEGIN
            elif row == last:
                part = Part.END
            found.setdefault(row, []).append(Bar(x - 4 + lane * _WIDTH, part, connection))
    return {row: tuple(bars) for row, bars in found.items()}
