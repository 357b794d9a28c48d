"""Events sorted into connections, and drawn."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from testbed.lab.family import ConnTuple
from testbed.observe.connections import sort_out
from testbed.observe.events import Difference, Event, Kind, Scalar, Story
from testbed.observe.sequence import draw_story

A, B = ip_address("10.0.0.1"), ip_address("10.0.0.2")
OUT = ConnTuple(A, 40000, B, 80)
CLIENT, SERVER = 7, 9


def event(
    time_ns: int, kind: Kind, text: str, host: str | None = None, of: ConnTuple | None = None, **more: Scalar
) -> Event:
    cookie = more.pop("cookie", None)
    to = more.pop("to", None)
    assert cookie is None or isinstance(cookie, int)
    assert to is None or isinstance(to, str)
    return Event(time_ns, kind, text, host, to, cookie, of, more)


def connects(time_ns: int, cookie: int = CLIENT, of: ConnTuple = OUT, host: str = "client") -> Event:
    return event(time_ns, Kind.CALLBACK, "TCP_CONNECT", host, of, cookie=cookie, op="TCP_CONNECT")


HANDSHAKE = [
    event(5_000, Kind.CALL, "connect() → 0", "client", cookie=CLIENT, took_ns=90_000),
    connects(10_000),
    event(20_000, Kind.SEGMENT, "SYN", "client", OUT, to="server"),
    event(30_000, Kind.SEGMENT, "SYN,ACK", "server", OUT.reversed, to="client"),
    event(40_000, Kind.CALLBACK, "ACTIVE_ESTABLISHED", "client", OUT, cookie=CLIENT),
    event(50_000, Kind.SEGMENT, "ACK", "client", OUT, to="server"),
    event(60_000, Kind.CALLBACK, "PASSIVE_ESTABLISHED", "server", OUT.reversed, cookie=SERVER),
    event(60_000, Kind.RECORD, "INBOUND/ESTABLISHED", None, OUT),
    event(99_000, Kind.CALL, "accept()", "server", cookie=SERVER),
]


def test_a_handshake_is_one_connection() -> None:
    (one,), others = sort_out(reversed(HANDSHAKE))
    assert (one.number, one.tuple, one.client, one.server) == (1, OUT, "client", "server")
    assert [each.text for each in one.events] == [each.text for each in HANDSHAKE]
    assert [each.text for each in one.events if each.details.get("back")] == [
        "SYN,ACK",
        "PASSIVE_ESTABLISHED",
    ]
    assert {each.connection for each in one.events} == {OUT}
    assert not others


def test_a_tuple_used_again_is_another_connection() -> None:
    again = [
        connects(200_000, cookie=11),
        event(210_000, Kind.SEGMENT, "SYN", "client", OUT, to="server"),
        event(190_000, Kind.CALL, "connect() → 0", "client", cookie=11, took_ns=50_000),
    ]
    (first, second), _ = sort_out([*HANDSHAKE, *again])
    assert len(first.events) == len(HANDSHAKE)
    assert [each.text for each in second.events] == ["connect() → 0", "TCP_CONNECT", "SYN"]


def test_one_socket_that_connects_twice() -> None:
    elsewhere = ConnTuple(A, 40000, B, 81)
    events = [connects(10), connects(20, of=elsewhere)]
    calls = [
        event(5, Kind.CALL, "refused", "client", cookie=CLIENT, took_ns=10),
        event(16, Kind.CALL, "connected", "client", cookie=CLIENT, took_ns=10),
        event(30, Kind.CALL, "send()", "client", cookie=CLIENT),
    ]
    (first, second), _ = sort_out([*events, *calls])
    assert [each.text for each in first.events] == ["refused", "TCP_CONNECT"]
    assert [each.text for each in second.events] == ["connected", "TCP_CONNECT", "send()"]


def test_both_connect_to_each_other() -> None:
    call = event(30, Kind.CALL, "x", "server", cookie=SERVER)
    (one,), _ = sort_out([connects(10), connects(20, SERVER, OUT.reversed, "server"), call])
    assert (one.client, one.server, len(one.events)) == ("client", "server", 3)


def test_what_nobody_connected() -> None:
    """segments injected, a listener: the first is a connection, the other none"""
    stray = event(10, Kind.SEGMENT, "RST", "server", OUT.reversed, to="client")
    listens = event(5, Kind.CALLBACK, "TCP_LISTEN", "server", ConnTuple(B, 80, ip_address(0), 0))
    (one,), others = sort_out([stray, listens])
    assert (one.tuple, one.events[0].details["back"]) == (OUT, True)
    assert others == (listens,)


PICTURE = Path(__file__).with_name("drawn_story.txt").read_text(encoding="utf-8")


def test_the_drawing() -> None:
    managed = event(1_000, Kind.CHANGE, "managed + 10.0.0.1", address=str(A))
    connections, others = sort_out([*HANDSHAKE, managed])
    missing = Difference("request: missing", "a request", "none", OUT, time_ns=60_000)
    story = Story("t", "title", "failed", connections=connections, others=others, differences=(missing,))
    assert draw_story(story, 120).startswith(PICTURE)
    for width in (120, 160, 200):
        assert max(map(len, draw_story(story, width).splitlines())) <= width


@pytest.mark.parametrize(("number", "shown"), [(1, True), (2, False)])
def test_some_of_the_connections(number: int, shown: bool) -> None:
    connections, others = sort_out(HANDSHAKE)
    story = Story("t", "title", "failed", connections=connections, others=others)
    assert ("TCP_CONNECT" in draw_story(story, connections={number})) is shown
