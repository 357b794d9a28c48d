"""What is told of a test: events on one clock, by connection. Plain values, so that a story can be kept.

A recorder makes them of what it has taken down; text, HTML, pcapng and capsules are made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from testbed.lab.family import ConnTuple

Scalar = str | int | float | bool | None


class Kind(StrEnum):
    """What an event is."""

    CALL = "call"
    """A system call that the test made on a socket; its time is when it began, ``took_ns`` its duration."""
    CALLBACK = "callback"
    """A sockops callback, as the tap saw it: after the program under test."""
    SEGMENT = "segment"
    """A TCP segment on a link: from ``host`` to ``to``."""
    GATE = "gate"
    """What a gate did with a segment."""
    RECORD = "record"
    """A record that the program under test wrote into a ring."""
    CHANGE = "change"
    """A change of a map, by the program under test or by user space."""
    STATE = "state"
    """A socket's state, as the kernel set it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``time_ns`` is CLOCK_MONOTONIC.

    ``text`` is what a person reads: ``connect() → 0``, ``SYN seq 0``, ``OUTBOUND/ESTABLISHED …``. ``host``
    is whose it is, None where nobody knows; ``to`` is the host at the other end of the link, of a
    segment. ``connection`` runs client to server. ``details`` are the same things as values; ``back`` is
    among them where a segment goes from the server to the client, or a callback is of the server's socket.
    """

    time_ns: int
    kind: Kind
    text: str
    host: str | None = None
    to: str | None = None
    cookie: int | None = None
    connection: ConnTuple | None = None
    details: dict[str, Scalar] = field(default_factory=dict)


Events = tuple[Event, ...]  # a class with a field `tuple` cannot say so itself


@dataclass(frozen=True, slots=True)
class ConnectionStory:
    """Everything that happened to one connection, in the order of its times.

    ``number`` counts the connections of a story from 1. ``client`` and ``server`` are hosts of the lab,
    None for an end that no host has. One tuple used twice is two connections.
    """

    number: int
    tuple: ConnTuple
    client: str | None
    server: str | None
    events: Events


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as it should be: ``kind`` in words that tests share, the others in full.

    ``host`` and ``link`` (the two hosts) are where, if that is known: the picture marks them. ``time_ns``
    is when it should have been otherwise.
    """

    kind: str
    expected: str
    seen: str
    connection: ConnTuple | None = None
    host: str | None = None
    link: tuple[str, str] | None = None
    time_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """What happened in one test. ``verdict`` is passed, failed, skipped or error.

    ``topology`` is the lab's topology as `testbed.topology` writes it. ``others`` are the events of no
    connection. ``lost`` says what was not recorded, in words; empty in a story that is whole.
    ``wall_ns`` is what CLOCK_REALTIME was ahead of CLOCK_MONOTONIC.
    """

    test: str
    title: str
    verdict: str
    message: str = ""
    topology: dict[str, object] = field(default_factory=dict)
    connections: tuple[ConnectionStory, ...] = ()
    others: tuple[Event, ...] = ()
    differences: tuple[Difference, ...] = ()
    lost: tuple[str, ...] = ()
    wall_ns: int = 0

    def events(self) -> Iterator[Event]:
        """All of them, in the order of their times."""
        told = [each for connection in self.connections for each in connection.events]
        return iter(sorted((*told, *self.others), key=lambda each: each.time_ns))

    def concerned(self) -> tuple[ConnectionStory, ...]:
        """The connections that a difference is about; all of them where none is named."""
        named = {each.connection for each in self.differences} - {None}
        found = tuple(each for each in self.connections if named & {each.tuple, each.tuple.reversed})
        return found or self.connections
