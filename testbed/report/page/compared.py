"""Differences as the page shows them: expected beside seen, and the event that each is about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from testbed.graph.sketch import Marks
from testbed.observe.events import Difference, Event, Story
from testbed.report.shown import told

_TEXT = 4000
_WORDS = 600  # of a text that is compared word by word
_WORD = re.compile(r"\s+|[^\s=,:|→()\[\]]+|.", re.DOTALL)
_ALIKE = 0.34
_END = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|\d[\d.]*\d):\d+\b")
_COOKIE = re.compile(r"\bcookie=(\d+)\b")
_NOTHING = (("–", False),)  # stands where nothing was expected

Piece = tuple[str, bool]
"""Text, and whether it is other than on the other side."""


@dataclass(frozen=True)
class Compared:
    """One difference. ``place`` is that of its event among those of the story, None where there is none.

    ``until`` says that what was expected had not come by that event: it is the last, not the one.
    """

    number: int
    kind: str
    expected: tuple[Piece, ...]
    seen: tuple[Piece, ...]
    where: str
    connection: int
    place: int | None
    until: bool


def compare(story: Story, events: Sequence[tuple[Event, int]]) -> list[Compared]:
    """Every difference of a story; ``events`` are those with the numbers of their connections."""
    numbers = {one.tuple: one.number for one in reversed(story.connections)}
    numbers |= {one.tuple.reversed: one.number for one in reversed(story.connections)} | numbers
    found = []
    for number, each in enumerate(story.differences, 1):
        connection = (
            numbers.get(each.connection, 0) if each.connection is not None else _named(each, story, events)
        )
        expected, seen = _pieces(told(each.expected, _TEXT), told(each.seen, _TEXT))
        expected = expected if each.expected else _NOTHING
        place, until = _event_of(each, connection, events)
        where = [f"at {each.host}"] if each.host is not None else []
        where += [" – ".join(each.link)] if each.link is not None else []
        found.append(Compared(number, each.kind, expected, seen, ", ".join(where), connection, place, until))
    return found


def marks_of(story: Story) -> Marks:
    """What the picture of the topology marks."""
    hosts = frozenset(each.host for each in story.differences if each.host is not None)
    return Marks(hosts, frozenset(each.link for each in story.differences if each.link is not None))


def _named(difference: Difference, story: Story, events: Sequence[tuple[Event, int]]) -> int:
    """The connection that its words name: by a socket's cookie, or by both ends; 0 where it is not one."""
    words = f"{difference.expected} {difference.seen}"[: 2 * _TEXT]
    cookies = {int(cookie[:20]) for cookie in _COOKIE.findall(words)}
    if cookies:
        found = {number for each, number in events if number and each.cookie in cookies}
        if len(found) == 1:
            return found.pop()
    ends = set(_END.findall(words))
    first: dict[object, int] = {}  # one tuple that was used twice is the first of the two
    for one in story.connections:
        if ends.issuperset(str(one.tuple).split(" → ")):
            first.setdefault(one.tuple, one.number)
    return next(iter(first.values())) if len(first) == 1 else 0


def _event_of(
    difference: Difference, connection: int, events: Sequence[tuple[Event, int]]
) -> tuple[int | None, bool]:
    """The event where it went wrong, or that says what was seen; else the last one there."""
    mine = [place for place, (_, number) in enumerate(events) if not connection or number == connection]
    if difference.time_ns is not None:
        after = [place for place in mine if events[place][0].time_ns >= difference.time_ns]
        if after:
            return after[0], False
    here = [place for place in mine if difference.host is None or events[place][0].host == difference.host]
    words = _words(difference.seen)
    best, likeness = None, _ALIKE
    for place in here:
        others = _words(events[place][0].text)
        alike = len(words & others) / len(words | others) if words | others else 0.0
        if alike > likeness:
            best, likeness = place, alike
    if best is not None:
        return best, False
    if not connection and difference.host is None:
        return None, False
    last = here or mine
    return (last[-1], True) if last else (None, False)


def _words(text: str) -> set[str]:
    return set(text[:_TEXT].split())


def _pieces(expected: str, seen: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Both as pieces; nothing is marked where they have little in common."""
    one, other = _WORD.findall(expected), _WORD.findall(seen)
    plain = ((expected, False),), ((seen, False),)
    if max(len(one), len(other)) > _WORDS:
        return plain
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    if matcher.ratio() < 0.5:
        return plain
    left: list[Piece] = []
    right: list[Piece] = []
    for tag, a, b, c, d in matcher.get_opcodes():
        if b > a:
            left.append(("".join(one[a:b]), tag != "equal"))
        if d > c:
            right.append(("".join(other[c:d]), tag != "equal"))
    return tuple(left), tuple(right)
