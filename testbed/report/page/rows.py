"""The rows of a story's diagram: an event each, with where its shape stands and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from testbed.observe.events import Event, Kind, Scalar, Story
from testbed.report.page.bars import Bar, bars_of
from testbed.report.page.lifelines import Lifelines
from testbed.report.shown import on_a_line, told

HEIGHT = 30
CHARACTER = 7.25  # pixels of one at 12 px
MOST = 4000  # events of one story; of more, the first and the last
_LAST = 1000
_LABEL = 42  # characters: from one lifeline to the next
_WORDS = 40
_WORDS_OF_MAPS = 54
_WORDS_OF_GATES = 34
_TEXT = 2000
_DETAILS = 40
_GAP_NS = 1_000_000  # so long a silence is told
_END_OF_TIME_NS = 253_402_300_800_000_000_000  # of the year 9999, with which datetime ends


class Fate(StrEnum):
    """What became of a segment."""

    PASSED = "passed"
    DROPPED = "dropped"
    HELD = "held"
    RELEASED = "released"
    DUPLICATED = "duplicated"
    CORRUPTED = "corrupted"


_STEMS = {
    "drop": Fate.DROPPED,
    "lost": Fate.DROPPED,
    "held": Fate.HELD,
    "hold": Fate.HELD,
    "release": Fate.RELEASED,
    "duplicat": Fate.DUPLICATED,
    "corrupt": Fate.CORRUPTED,
}


@dataclass(frozen=True)
class Arrow:
    """A segment, or the part of its way that it went: from ``x`` to ``to``; ``middle`` is the wire's."""

    x: int
    to: int
    middle: int
    fate: Fate


@dataclass(frozen=True)
class Row:
    """An event as it is drawn. ``connection`` is 0 for one of none, ``x`` its shape's place.

    ``wide`` is the shape's width, ``writer`` where the line from the host that wrote a map begins.
    ``marks`` are the numbers of the differences that it has to do with.
    """

    number: int
    kind: Kind
    time: str
    gap: str
    connection: int
    x: int
    label: str
    wide: int
    bars: tuple[Bar, ...]
    arrow: Arrow | None
    writer: int | None
    marks: tuple[int, ...]
    spoken: str
    text: str
    where: str
    details: tuple[tuple[str, str], ...]


def fate_of(each: Event) -> Fate:
    """By what its details say (``fate``, ``action``, ``verb``); of a gate's event also by its words."""
    said = next((each.details[name] for name in ("fate", "action", "verb") if name in each.details), None)
    words = said if isinstance(said, str) else each.text if each.kind is Kind.GATE else ""
    found = (fate for word in words.lower().split() for stem, fate in _STEMS.items() if word.startswith(stem))
    return next(found, Fate.PASSED)


def numbered(story: Story) -> list[tuple[Event, int]]:
    """Every event with the number of its connection, 0 for none, in the order of their times."""
    every = [(each, one.number) for one in story.connections for each in one.events]
    every += [(each, 0) for each in story.others]
    return sorted(every, key=lambda pair: pair[0].time_ns)


def drawn_of(events: Sequence[tuple[Event, int]]) -> tuple[list[int], int]:
    """Which are drawn, by place, and how many are left out in the middle."""
    if len(events) <= MOST:
        return list(range(len(events))), 0
    return [*range(MOST - _LAST), *range(len(events) - _LAST, len(events))], len(events) - MOST


def rows_of(
    story: Story,
    events: Sequence[tuple[Event, int]],
    places: Iterable[int],
    lines: Lifelines,
    marks: dict[int, list[int]],
) -> Iterator[Row]:
    """A row for each event at these places; ``marks`` are the differences by place."""
    begin = events[0][0].time_ns if events else 0
    bars = bars_of(events, lines)
    before = begin
    for place in places:
        each, connection = events[place]
        silence = each.time_ns - before
        before = each.time_ns
        label, wide = _label(each, lines)
        time = microseconds(each.time_ns - begin)
        yield Row(
            number=place,
            kind=each.kind,
            time=time,
            gap=f"{duration(silence)} later" if silence >= _GAP_NS else "",
            connection=connection,
            x=_place(each, lines),
            label=label,
            wide=wide,
            bars=bars.get(place, ()),
            arrow=_arrow(each, lines),
            writer=_writer(each, lines),
            marks=tuple(marks.get(place, ())),
            spoken=f"{time} µs, {each.kind}, {each.host or ''}: {on_a_line(each.text, 160)}",
            text=told(each.text, _TEXT),
            where=_where(each, story),
            details=tuple(_details(each.details)),
        )


def microseconds(nanoseconds: int) -> str:
    """``1 234.5``: thousands are parted by a narrow space."""
    return f"{nanoseconds / 1000:,.1f}".replace(",", "\u202f")


def duration(nanoseconds: int) -> str:
    """``38.1 µs``, ``2.40 ms``, ``1.20 s``."""
    for unit, size in (("s", 10**9), ("ms", 10**6)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds / 1000:.1f} µs"


def took_ns(each: Event) -> int:
    """How long a call took, 0 where that is not known."""
    took = each.details.get("took_ns")
    return took if isinstance(took, int) and took > 0 else 0


def _place(each: Event, lines: Lifelines) -> int:
    if each.kind in {Kind.RECORD, Kind.CHANGE}:
        return lines.maps
    if each.kind in {Kind.SEGMENT, Kind.GATE}:
        return lines.wire(each.host, each.to)
    return lines.x_of(each.host)


def _label(each: Event, lines: Lifelines) -> tuple[str, int]:
    """The words in or beside a shape, and how wide it is with them."""
    words = f"{each.host}: {each.text}" if lines.shared and each.host else each.text
    if each.kind is Kind.CALL and took_ns(each):
        took = f"  {duration(took_ns(each))}"
        words = on_a_line(words, _LABEL - len(took)) + took
    else:
        in_maps = each.kind in {Kind.RECORD, Kind.CHANGE}
        most = _WORDS_OF_GATES if each.kind is Kind.GATE else _WORDS_OF_MAPS if in_maps else _WORDS
        words = on_a_line(words, most)
    return words, round(len(words) * CHARACTER)


def _arrow(each: Event, lines: Lifelines) -> Arrow | None:
    """None for what is no segment's way: a gate's words alone."""
    fate = fate_of(each)
    if each.kind is Kind.GATE and (
        fate in {Fate.PASSED, Fate.DUPLICATED, Fate.CORRUPTED} or each.host is None
    ):
        return None
    if each.kind not in {Kind.SEGMENT, Kind.GATE}:
        return None
    middle = lines.wire(each.host, each.to)
    begin, end = (lines.x_of(host) if host is not None else middle for host in (each.host, each.to))
    if fate in {Fate.DROPPED, Fate.HELD}:
        end = middle
    elif fate is Fate.RELEASED and each.kind is Kind.GATE:
        begin = middle
    return Arrow(begin, end, middle, fate)


def _writer(each: Event, lines: Lifelines) -> int | None:
    if each.kind not in {Kind.RECORD, Kind.CHANGE} or each.host is None:
        return None
    return lines.x_of(each.host)


def _where(each: Event, story: Story) -> str:
    parts = [str(each.kind)]
    if each.host is not None:
        parts.append(f"{each.host} → {each.to}" if each.to is not None else f"at {each.host}")
    parts += [str(each.connection)] if each.connection is not None else []
    parts += [f"cookie {each.cookie}"] if each.cookie is not None else []
    wall = story.wall_ns + each.time_ns
    if story.wall_ns and 0 <= wall < _END_OF_TIME_NS:
        moment = datetime.fromtimestamp(wall // 10**9, UTC)
        parts.append(f"{moment:%Y-%m-%d %H:%M:%S}.{wall % 10**9:09} UTC")
    return told(" · ".join(parts), _TEXT)


def _details(details: dict[str, Scalar]) -> Iterator[tuple[str, str]]:
    for name, value in [*details.items()][:_DETAILS]:
        if name == "took_ns" and isinstance(value, int):
            yield "took", duration(value)
        else:
            yield on_a_line(name, 60), told(str(value), _TEXT // 2)
