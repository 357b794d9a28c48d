"""Events sorted into connections: by the sockets' cookies and by tuples, one clock for all.

A client's socket has one cookie from the beginning. A server's connection begins as a request, which
may have another cookie than the socket that it becomes; so do its segments, which have none. These are
joined by the tuple, in either direction. A tuple that is used again is another connection: told by the
cookie of the client that connects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from testbed.lab.family import ConnTuple
from testbed.observe.events import ConnectionStory, Event, Kind

# Which of two events at the same time is told first: what causes the other.
_ORDER = {kind: place for place, kind in enumerate(Kind)}
_ENDS = frozenset[tuple[object, int]]


@dataclass(eq=False)
class _Found:
    """A connection while it is put together. ``client`` is the cookie of the socket that connected."""

    tuple: ConnTuple
    since_ns: int
    client: int | None = None
    crossed: int | None = None
    """The cookie of the other side's, where both connected to each other (simultaneous open)."""
    client_host: str | None = None
    server_host: str | None = None
    events: list[Event] = field(default_factory=list)


def in_order(events: Iterable[Event]) -> list[Event]:
    """By their times; what is told of one moment, the cause first."""
    return sorted(events, key=lambda each: (each.time_ns, _ORDER[each.kind]))


def is_connecting(each: Event) -> bool:
    """A client's socket is about to send its SYN."""
    return each.kind is Kind.CALLBACK and each.details.get("op") == "TCP_CONNECT"


def _ends(connection: ConnTuple) -> _ENDS:
    return frozenset({(connection.src, connection.sport), (connection.dst, connection.dport)})


class _Sorter:
    def __init__(self, clients: Sequence[Event]) -> None:
        self._by_ends: dict[_ENDS, list[_Found]] = {}
        self._by_cookie: dict[int, list[_Found]] = {}
        self.found: list[_Found] = []
        for each in clients:
            self._begin(each)

    def _begin(self, each: Event) -> None:
        """A socket connects: a connection, or the other half of one that is being made."""
        assert each.connection is not None, "a callback has a tuple"
        same = self._by_ends.setdefault(_ends(each.connection), [])
        if same and same[-1].tuple == each.connection.reversed and same[-1].crossed is None:
            same[-1].crossed = each.cookie
            self._remember(each.cookie, same[-1])
            return
        one = _Found(each.connection, each.time_ns, each.cookie, client_host=each.host)
        same.append(one)
        self.found.append(one)
        self._remember(each.cookie, one)

    def _remember(self, cookie: int | None, one: _Found) -> None:
        known = self._by_cookie.setdefault(cookie or 0, [])
        if cookie and one not in known:
            known.append(one)

    def of(self, each: Event) -> _Found | None:
        """Whose an event is; a connection of its own where nobody was seen to connect."""
        known = self._by_cookie.get(each.cookie or 0, [])
        if each.connection is None or (known and each.kind is Kind.STATE):  # a closed socket has no port
            if each.details.get("new") == "SYN_SENT":  # the next callback is the one that begins it
                return next((one for one in known if one.since_ns >= each.time_ns), None)
            return self._latest(known, each)
        same = self._by_ends.setdefault(_ends(each.connection), [])
        if not same:
            same.append(_Found(_client_first(each), each.time_ns))
            self.found.append(same[-1])
        one = self._latest(same, each)
        if one is not None and each.kind is Kind.CALLBACK:
            self._remember(each.cookie, one)
        return one

    @staticmethod
    def _latest(known: Sequence[_Found], each: Event) -> _Found | None:
        """The last that had begun by then: a call takes in what it began itself."""
        took = each.details.get("took_ns")
        until = each.time_ns + (took if isinstance(took, int) else 0)
        begun = [one for one in known if one.since_ns <= until]
        return begun[-1] if begun else known[0] if known else None


def _client_first(each: Event) -> ConnTuple:
    """Of a connection that nobody was seen to begin: the lower port is the server's."""
    assert each.connection is not None
    connection = each.connection
    return connection if connection.sport >= connection.dport else connection.reversed


def sort_out(events: Iterable[Event]) -> tuple[tuple[ConnectionStory, ...], tuple[Event, ...]]:
    """The connections, numbered as they began, and the events of none.

    An event has the tuple of its own side (local to remote, sender to receiver) or none, and then a
    cookie. In a connection's story it has that connection's tuple, and ``back`` in its details where its
    own was the other way around. A listening socket's is no connection.
    """
    everything = in_order(events)
    sorter = _Sorter([each for each in everything if is_connecting(each)])
    for each in everything:  # who has which cookie, before what has nothing else
        if each.kind is Kind.CALLBACK and each.connection is not None and each.connection.dport:
            sorter.of(each)
    others: list[Event] = []
    for each in everything:
        listens = each.connection is not None and not each.connection.dport
        one = None if listens else sorter.of(each)
        if one is None:
            others.append(each)
            continue
        _place_hosts(one, each)
        one.events.append(_as_of(one, each))
    told = [
        ConnectionStory(number, one.tuple, one.client_host, one.server_host, tuple(one.events))
        for number, one in enumerate(sorted(sorter.found, key=lambda each: each.since_ns), 1)
    ]
    return tuple(told), tuple(others)


def _as_of(one: _Found, each: Event) -> Event:
    """Under the connection's tuple; what goes back from server to client says so."""
    if each.connection == one.tuple:
        return each
    own = each.connection
    back = (
        {"back": True}
        if own is not None and own.src == one.tuple.dst and own.sport in {0, one.tuple.dport}
        else {}
    )
    return replace(each, connection=one.tuple, details={**each.details, **back})


def _place_hosts(one: _Found, each: Event) -> None:
    """Whose the two ends are, by the callbacks and calls there: a host in between has none."""
    if each.host is None or each.kind not in {Kind.CALLBACK, Kind.STATE}:
        return
    if each.connection == one.tuple:
        one.client_host = one.client_host or each.host
    elif each.connection == one.tuple.reversed:
        one.server_host = one.server_host or each.host
