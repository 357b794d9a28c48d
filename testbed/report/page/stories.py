"""A story as its template wants it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.observe.events import Event, Kind, Story
from testbed.report.page.compared import Compared, compare, marks_of
from testbed.report.page.lifelines import Lifelines
from testbed.report.page.pictures import Picture, Pictures
from testbed.report.page.rows import Row, drawn_of, duration, numbered, rows_of
from testbed.report.page.verdicts import style_of, word_of
from testbed.report.shown import on_a_line, told

_MESSAGE = 20_000
_TITLE = 300
_CONNECTIONS = 500  # to choose from
_DIFFERENCES = 100
_BRIEF_LINES, _BRIEF = 4, 400  # a message that is longer would push the diagram away: it is closed


@dataclass(frozen=True)
class ShownStory:
    """A story, drawn. A row that is None stands for those that were left out.

    ``words`` are what the filter finds it by beside its name. ``brief`` says that the message is short,
    ``first_places`` where the first event that is drawn of each connection stands.
    """

    number: int
    title: str
    test: str
    outcome: str
    word: str
    style: str
    open: bool
    size: str
    message: str
    brief: bool
    first_line: str
    words: str
    lost: tuple[str, ...]
    differences: tuple[Compared, ...]
    picture: Picture | None
    marked: bool
    lines: Lifelines
    rows: tuple[Row | None, ...]
    places: frozenset[int]
    first_places: dict[int, int]
    left_out: int
    kinds: tuple[tuple[Kind, int], ...]
    connections: tuple[tuple[int, str], ...]
    concerned: tuple[int, ...]
    others: bool
    command: str


def show(
    story: Story, number: int, run: str, pictures: Pictures, *, is_open: bool, words: str = ""
) -> ShownStory:
    """The story under this number of the page; ``run`` is what commands know its run by."""
    events = numbered(story)
    differences = compare(story, events)[:_DIFFERENCES]
    marks: dict[int, list[int]] = {}
    for each in differences:
        if each.place is not None:
            marks.setdefault(each.place, []).append(each.number)
    places, left_out = drawn_of(events)
    lines = Lifelines(story)
    rows: list[Row | None] = [*rows_of(story, events, places, lines, marks)]
    if left_out:
        before = next(at for at, place in enumerate(places) if at and place != places[at - 1] + 1)
        rows.insert(before, None)
    counts = Counter(each.kind for each, _ in events)
    failing = marks_of(story)
    return ShownStory(
        number=number,
        title=on_a_line(story.title or story.test, _TITLE),
        test=on_a_line(story.test, _TITLE),
        outcome=story.verdict if style_of(story.verdict) != "none" else "other",
        word=word_of(story.verdict),
        style=style_of(story.verdict),
        open=is_open,
        size=_size(story, events),
        message=told(story.message, _MESSAGE),
        brief=len(story.message) <= _BRIEF and len(story.message.splitlines()) <= _BRIEF_LINES,
        first_line=on_a_line(story.message.strip().partition("\n")[0], _TITLE),
        words=on_a_line(words, _TITLE),
        lost=tuple(told(words, 1000) for words in story.lost[:20]),
        differences=tuple(differences),
        picture=pictures.of_story(story.topology, failing),
        marked=bool(failing.hosts or failing.links),
        lines=lines,
        rows=tuple(rows),
        places=frozenset(places),
        first_places={events[place][1]: place for place in reversed(places)},
        left_out=left_out,
        kinds=tuple((kind, counts[kind]) for kind in Kind if counts[kind]),
        connections=tuple(
            (each.number, f"#{each.number} {each.tuple}") for each in story.connections[:_CONNECTIONS]
        ),
        concerned=_concerned(story),
        others=bool(story.others),
        command=f"testbed story {run}" if run else "",
    )


def _concerned(story: Story) -> tuple[int, ...]:
    """The connections that differences are about, if that is not all of them."""
    if not story.differences:
        return ()
    found = tuple(each.number for each in story.concerned())
    return found if len(found) < len(story.connections) else ()


def _size(story: Story, events: Sequence[tuple[Event, int]]) -> str:
    connections = len(story.connections)
    words = [f"{connections:,} connection{'' if connections == 1 else 's'}", f"{len(events):,} events"]
    if events:
        words.append(duration(events[-1][0].time_ns - events[0][0].time_ns))
    return ", ".join(words)
