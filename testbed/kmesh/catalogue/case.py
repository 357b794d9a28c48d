"""One scenario of the catalogue: its dimensions, and what cannot be combined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from testbed.lab.family import Family


class Open(Enum):
    """How a connection comes to be, or does not."""

    PLAIN = "plain"
    NON_BLOCKING = "non-blocking"
    REFUSED = "refused"
    RETRIED = "refused, then retried on the same socket"
    TIMED_OUT = "timed out without a SYN-ACK"
    FAST_OPEN = "fast open"
    SIMULTANEOUS = "simultaneous open"
    COOKIES = "SYN cookies"
    HALF_OPEN = "half-open, the client vanished"
    MALFORMED = "malformed SYNs"
    NOT_ACCEPTED = "never accepted"
    MANY = "many at once"
    SAME_PORTS = "same ports reused at once"
    TWO_ADDRESSES = "a client with two addresses"
    BOUND_TO_DEVICE = "bound to a device"


class Close(Enum):
    """How a connection ends."""

    NOTHING = "no connection"
    CLIENT_FIRST = "client first"
    SERVER_FIRST = "server first"
    BOTH_AT_ONCE = "both at once"
    CLIENT_HALF = "half closed by the client"
    SERVER_HALF = "half closed by the server"
    CLIENT_LINGER = "client resets by SO_LINGER 0"
    SERVER_LINGER = "server resets by SO_LINGER 0"
    CLIENT_UNREAD = "client resets by unread data"
    SERVER_UNREAD = "server resets by unread data"
    CLIENT_KERNEL = "client's kernel resets"
    SERVER_KERNEL = "server's kernel resets"
    CLIENT_DESTROYED = "client's socket destroyed"
    SERVER_DESTROYED = "server's socket destroyed"
    CLIENT_KILLED = "client's process killed"
    SERVER_KILLED = "server's process killed"
    CLIENT_GONE = "client's host gone"
    KEEPALIVE = "keepalive of the client"
    USER_TIMEOUT = "user timeout of the server"
    TIME_WAIT = "TIME_WAIT reused"


class Managed(Enum):
    """Who is managed, since when, and by what."""

    NONE = "none managed"
    CLIENT = "client managed"
    SERVER = "server managed"
    BOTH = "both managed"
    ENROLLED = "enrolled in mid-connection"
    REMOVED = "removed in mid-connection"
    ONE_NAMESPACE = "enrolled in one namespace only"
    STALE = "re-enrolled over a stale value"


class Traffic(Enum):
    """What is sent between open and close."""

    NOTHING = "no data"
    ONE_BYTE = "one byte"
    BULK = "1 MiB each way"
    SMALL = "many small writes"
    SEVERAL = "several sends behind the metadata"
    IN_SYN = "data in the SYN"


class Config(Enum):
    """What the program has been told."""

    DEFAULT = "default settings"
    NODE = "node_ip"
    NODE_NEAR = "nearly node_ip"
    NODE_OTHER = "node_ip of the other family"
    NODE_NUMBER = "node_ip of the same number in the other family"
    GATEWAY = "pod_gateway"
    GATEWAY_NEAR = "nearly pod_gateway"
    GATEWAY_OTHER = "pod_gateway of the other family"
    GATEWAY_NUMBER = "pod_gateway of the same number in the other family"
    UNMONITORED = "monitoring off"
    SWITCHED_OFF = "monitoring switched off in mid-connection"
    SWITCHED_ON = "monitoring switched on in mid-connection"


class Route(Enum):
    """Whether the client's socket is marked for a waypoint."""

    DIRECT = "direct"
    WAYPOINT = "via waypoint"


UNCONNECTED = frozenset({Open.REFUSED, Open.TIMED_OUT, Open.HALF_OPEN, Open.MALFORMED})
"""Ways of opening that end without a connection."""
SOCKETLESS = frozenset({Open.HALF_OPEN, Open.MALFORMED})
"""Those that have no client socket either: scapy plays the client."""
_IN_MID_CONNECTION = {Managed.ENROLLED, Managed.REMOVED, Config.SWITCHED_OFF, Config.SWITCHED_ON}
# What needs no socket of the server but its listener.
_WITHOUT_ACCEPT = {
    Close.CLIENT_FIRST,
    Close.SERVER_FIRST,
    Close.CLIENT_LINGER,
    Close.CLIENT_DESTROYED,
    Close.SERVER_DESTROYED,
    Close.CLIENT_KILLED,
    Close.SERVER_KILLED,
}


@dataclass(frozen=True)
class Case:
    """One scenario. ``str`` says what it does; ``id`` is short, a word for each dimension that counts."""

    open: Open
    close: Close
    family: Family
    managed: Managed
    traffic: Traffic
    config: Config
    route: Route

    def __str__(self) -> str:
        optional = (self.traffic, self.config, self.route)
        words = [self.title, self.family.value, self.managed.value]
        return ", ".join([*words, *(each.value for each in optional if each not in _USUAL)])

    @property
    def row(self) -> str:
        """Where it stands in a table of verdicts: with the others that open like it."""
        return self.open.value

    @property
    def title(self) -> str:
        """How it opens and closes."""
        return ", ".join(each.value for each in (self.open, self.close) if each not in _USUAL)

    @property
    def id(self) -> str:
        """``retried-client_first-both-bulk-waypoint-v6``. The family is the last word."""
        values = (self.open, self.close, self.managed, self.traffic, self.config, self.route)
        words = [each.name.lower() for each in values if each not in _USUAL]
        return "-".join([*words, self.family.value])


_USUAL = {Close.NOTHING, Traffic.NOTHING, Config.DEFAULT, Route.DIRECT}
DIMENSIONS: tuple[tuple[Enum, ...], ...] = tuple(
    tuple(each) for each in (Open, Close, Family, Managed, Traffic, Config, Route)
)
"""The values of each dimension, in the order of `Case`."""


def _rules(way: Open) -> Callable[[Any], bool]:
    """Which values of the other dimensions a way of opening can be combined with."""
    connects = way not in UNCONNECTED
    refused: set[Enum] = {Close.NOTHING} if connects else {*Close} - {Close.NOTHING}
    if not connects:
        refused |= {*_IN_MID_CONNECTION, *Traffic} - {Traffic.NOTHING}
    if way in SOCKETLESS:
        refused |= {Route.WAYPOINT, Family.MAPPED_CLIENT}
    if way is Open.NOT_ACCEPTED:
        refused |= set(Close) - _WITHOUT_ACCEPT
        refused |= set(Traffic) - {Traffic.NOTHING, Traffic.ONE_BYTE}
    if way is Open.FAST_OPEN:
        refused.add(Traffic.NOTHING)  # without data, a SYN is none of Fast Open
    else:
        refused.add(Traffic.IN_SYN)
    return lambda value: value not in refused


_OF_OPEN = {way: _rules(way) for way in Open}


def can_combine(one: Enum, other: Enum) -> bool:
    """Whether two values of different dimensions can be in one scenario."""
    for way, value in ((one, other), (other, one)):
        if isinstance(way, Open) and not _OF_OPEN[way](value):
            return False
        if way is Close.NOTHING and value in {*_IN_MID_CONNECTION, *Traffic} - {Traffic.NOTHING}:
            return False
        if way is Traffic.SEVERAL and value is Route.DIRECT:
            return False
    return True


def values_of(case: Case) -> tuple[Enum, ...]:
    """A scenario's value in each dimension."""
    return (case.open, case.close, case.family, case.managed, case.traffic, case.config, case.route)
