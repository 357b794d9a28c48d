"""A story in text: for each connection a sequence diagram, client | wire | server | maps."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence

from testbed.observe.events import ConnectionStory, Difference, Event, Kind, Story

_TIME = 10
_WRONG = "✗ "
_LEAST = 120
_MARKS = {
    Kind.CALL: "",
    Kind.CALLBACK: "◆ ",
    Kind.RECORD: "▸ ",
    Kind.CHANGE: "± ",
    Kind.STATE: "· ",
    Kind.GATE: "✂ ",
    Kind.SEGMENT: "",
}
LEGEND = "◆ sockops callback  · kernel state  ▸ record  ± map  ✂ gate  ✗ not as it should be; times in µs"
_LEFT, _WIRE, _RIGHT, _MAPS = range(4)
_ABOUT_NONE = {Kind.CALL, Kind.CALLBACK, Kind.STATE, Kind.CHANGE}
_Columns = tuple[int, int, int, int]


def draw_story(
    story: Story, width: int = 120, *, connections: Collection[int] = (), start_ns: int | None = None
) -> str:
    """The connections of these numbers, all without any, as sequence diagrams; then what belongs to none.

    With numbers that is only what should belong to one: no listener's callbacks and calls.
    What was expected and what was seen stands above each. At least 120 columns wide. Times are
    microseconds since the first event that is told.
    """
    width = max(width, _LEAST)
    shown = [each for each in story.connections if not connections or each.number in connections]
    begin = start_ns if start_ns is not None else _begin(story)
    blocks = [_draw(each, story, width, begin) for each in shown]
    if others := [*_others(story, width, begin, _ABOUT_NONE if connections else set())]:
        blocks.append("\n".join(others))
    blocks += [f"✗ NOT WHOLE: {words}" for words in story.lost]
    told = {each.tuple for each in shown} | {each.tuple.reversed for each in shown}
    nowhere = [each for each in story.differences if each.connection not in told]
    if nowhere and not connections:
        blocks.insert(0, "\n".join(_compared(nowhere, width)))
    if not blocks:
        return "nothing was recorded"
    return "\n\n".join([*blocks, LEGEND])


def _begin(story: Story) -> int:
    times = [each.time_ns for each in story.events()]
    return min(times, default=0)


def _draw(one: ConnectionStory, story: Story, width: int, begin: int) -> str:
    columns = _columns(width)
    client, server = one.client or "(nobody)", one.server or "(nobody)"
    lines = [f"#{one.number}  {one.tuple}   {client} → {server}"]
    lines += _compared([each for each in story.differences if _is_about(each, one)], width)
    titles = (_title(one.client, "client"), "wire", _title(one.server, "server"), "maps and rings")
    lines.append(_row("µs", [[title] for title in titles], columns))
    lines.append("─" * width)
    events = [*_folded(one.events), *(each for each in story.others if _touches(each, one))]
    # where something should have been otherwise, that stands behind what was
    events += [_expected(each) for each in story.differences if _is_about(each, one) and each.time_ns]
    lines += _rows(sorted(events, key=lambda event: event.time_ns), one, columns, begin)
    return "\n".join(lines)


def _title(host: str | None, role: str) -> str:
    """A host with what it is to the connection, unless its name says so."""
    return f"(no {role})" if host is None else host if host == role else f"{host} ({role})"


def _rows(events: Sequence[Event], one: ConnectionStory, columns: _Columns, begin: int) -> Iterator[str]:
    """A row for each event; what is told of one moment shares a row where it is in different columns."""
    cells: list[list[str]] = []
    time_ns = None
    for each in events:
        place, told = _cell(each, one, columns)
        if cells and (each.time_ns != time_ns or cells[place]):
            yield _row(f"{((time_ns or 0) - begin) / 1000:.1f}", cells, columns)
            cells = []
        cells = cells or [[], [], [], []]
        cells[place], time_ns = told, each.time_ns
    if cells:
        yield _row(f"{((time_ns or 0) - begin) / 1000:.1f}", cells, columns)


def _columns(width: int) -> _Columns:
    rest = width - _TIME - 4 * 2
    side, wire = rest * 28 // 100, max(rest * 18 // 100, 22)
    return side, wire, side, rest - 2 * side - wire


def _is_about(difference: Difference, one: ConnectionStory) -> bool:
    return difference.connection in {one.tuple, one.tuple.reversed}


def _touches(each: Event, one: ConnectionStory) -> bool:
    """A change of no connection that concerns this one: of the managed address of one of its ends."""
    ends = {str(one.tuple.src), str(one.tuple.dst)}
    return (
        each.kind is Kind.CHANGE
        and each.details.get("address") in ends
        and bool(one.events)
        and (each.time_ns <= one.events[-1].time_ns)
    )


def _folded(events: Sequence[Event]) -> Iterator[Event]:
    """Without the kernel's states that a callback has just told."""
    called: dict[int | None, Event] = {}
    for each in events:
        if each.kind is Kind.CALLBACK:
            called[each.cookie] = each
        before = called.get(each.cookie)
        if each.kind is not Kind.STATE or before is None or each.text not in before.text:
            yield each


def _expected(each: Difference) -> Event:
    wanted = each.expected.partition("\n")[0] or each.kind
    return Event(each.time_ns or 0, Kind.RECORD, f"{_WRONG}expected: {wanted}")


def _compared(differences: Sequence[Difference], width: int) -> list[str]:
    """Expected against seen, side by side."""
    lines: list[str] = []
    half = (width - 8) // 2
    for each in differences:
        lines.append(f"  ✗ {each.kind}")
        left = _wrap(f"expected: {each.expected}" if each.expected else "", half)
        right = _wrap(f"seen: {each.seen}", half)
        for place in range(max(len(left), len(right))):
            one = left[place] if place < len(left) else ""
            other = right[place] if place < len(right) else ""
            lines.append(f"      {one:<{half}}  {other}".rstrip())
    return lines


def _wrap(text: str, width: int) -> list[str]:
    return [
        line
        for part in text.splitlines()
        for line in textwrap.wrap(part, width, subsequent_indent="  ", break_on_hyphens=False) or [""]
    ]


def _row(time: str, cells: Sequence[Sequence[str]], columns: Sequence[int]) -> str:
    """The first lines of the cells, and those that follow below."""
    lines = []
    for place in range(max(map(len, cells))):
        parts = [cell[place] if place < len(cell) else "" for cell in cells]
        told = "  ".join(f"{part:<{size}}" for part, size in zip(parts, columns, strict=True))
        lines.append(f"{time if not place else '':>{_TIME - 2}}  {told}".rstrip())
    return "\n".join(lines)


def _cell(each: Event, one: ConnectionStory, columns: _Columns) -> tuple[int, list[str]]:
    """The column of an event, and its lines there."""
    if each.kind is Kind.SEGMENT:
        return _WIRE, _arrow(each, one, columns[_WIRE])
    place, text = _placed(each, one)
    text = text.removeprefix("STATE ")  # the mark says it
    mark = "" if text.startswith(_WRONG) else _MARKS[each.kind]
    return place, _wrap(mark + text, columns[place])


def _placed(each: Event, one: ConnectionStory) -> tuple[int, str]:
    """The column of an event, and its words: with the host's name where the column is not that host's."""
    if each.kind in {Kind.RECORD, Kind.CHANGE}:
        return _MAPS, each.text
    if each.kind is Kind.GATE:
        return _WIRE, each.text
    if one.client == one.server:
        return (_RIGHT if each.details.get("back") else _LEFT), each.text
    if each.host == one.server:
        return _RIGHT, each.text
    if each.host == one.client:
        return _LEFT, each.text
    return _LEFT, f"{each.host or '?'}: {each.text}"


def _arrow(each: Event, one: ConnectionStory, width: int) -> list[str]:
    """``──── SYN ───▶``, to the right where it goes to the server; on which link, if there are several."""
    words = each.text if len(each.text) <= width - 6 else each.text[: width - 7] + "…"
    line = f" {words} ".center(width - 1, "─")
    arrow = f"◀{line}" if each.details.get("back") else f"{line}▶"
    ends = {one.client, one.server}
    if {each.host, each.to} - {None} <= ends:
        return [arrow]
    return [arrow, f"{each.host or '?'} → {each.to or '?'}".center(width)]


def _others(story: Story, width: int, begin: int, without: Collection[Kind]) -> Iterator[str]:
    told = [
        each
        for each in story.others
        if each.kind not in without and not any(_touches(each, one) for one in story.connections)
    ]
    if told:
        yield "of no connection:"
    for each in told:
        words = f"{each.host or '':<10} {_MARKS[each.kind]}{each.text}"
        lines = _wrap(words, width - _TIME - 2)
        yield f"{(each.time_ns - begin) / 1000:>{_TIME - 2}.1f}  {lines[0]}"
        for line in lines[1:]:
            yield " " * _TIME + line
