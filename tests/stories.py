"""Stories as tests of the report make them by hand."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from testbed.lab.family import ConnTuple
from testbed.observe.events import ConnectionStory, Difference, Event, Kind, Scalar, Story

START = 1_000_000_000
WALL = 1_700_000_000_000_000_000
CLIENT, SERVER = ipaddress.ip_address("10.77.0.1"), ipaddress.ip_address("10.77.0.2")
PAIR: dict[str, object] = {
    "name": "pair",
    "hosts": {"client": {"gateway": "server"}, "server": {"gateway": "client"}},
    "links": [
        [
            {"host": "client", "addresses": ["10.77.0.1/24", "fd77::1/64"]},
            {"host": "server", "addresses": ["10.77.0.2/24", "fd77::2/64"]},
        ]
    ],
}
_COOKIES = {"client": 4097, "server": 4099}
_US = 1000


@dataclass
class Telling:
    """Builds the events of one connection: each call of a method is the next thing that happens."""

    number: int = 1
    port: int = 40000
    now: int = START
    events: list[Event] = field(default_factory=list)

    @property
    def tuple(self) -> ConnTuple:
        return ConnTuple(CLIENT, self.port, SERVER, 8080)

    def _add(
        self,
        kind: Kind,
        text: str,
        host: str | None,
        after: float,
        details: Mapping[str, Scalar],
        to: str | None = None,
    ) -> Telling:
        self.now += int(after * _US)
        cookie = None
        if kind not in {Kind.SEGMENT, Kind.GATE, Kind.CHANGE} and host is not None:
            cookie = _COOKIES[host] + 2 * self.number
        self.events.append(Event(self.now, kind, text, host, to, cookie, self.tuple, dict(details)))
        return self

    def call(self, host: str, text: str, took: float, after: float = 3) -> Telling:
        name, _, result = text.partition(" → ")
        details: dict[str, Scalar] = {"call": name, "result": result, "took_ns": int(took * _US)}
        return self._add(Kind.CALL, text, host, after, details)

    def callback(self, host: str, op: str, change: str = "", after: float = 4, flags: int = 4) -> Telling:
        text = f"{op} {change}".rstrip()
        return self._add(Kind.CALLBACK, text, host, after, {"op": op, "flags": flags, "srtt_us": 312})

    def state(self, host: str, change: str, after: float = 1) -> Telling:
        before, _, now = change.partition(" → ")
        return self._add(Kind.STATE, change, host, after, {"old": before, "new": now})

    def segment(self, host: str, text: str, after: float = 8, **details: Scalar) -> Telling:
        to = "server" if host == "client" else "client"
        back: dict[str, Scalar] = {"back": True} if host == "server" else {}
        return self._add(Kind.SEGMENT, text, host, after, {"window": 64240, **back, **details}, to)

    def gate(self, host: str, text: str, action: str, after: float = 1) -> Telling:
        to = "server" if host == "client" else "client"
        return self._add(Kind.GATE, text, host, after, {"action": action}, to)

    def record(self, host: str, text: str, after: float = 2) -> Telling:
        details: dict[str, Scalar] = {"ring": "observe", "sent_bytes": 0, "conn_success": True}
        return self._add(Kind.RECORD, text, host, after, details)

    def change(self, text: str, host: str | None = None, after: float = 2) -> Telling:
        return self._add(Kind.CHANGE, text, host, after, {"map": "verdicts"})

    def done(self) -> ConnectionStory:
        return ConnectionStory(self.number, self.tuple, "client", "server", tuple(self.events))


def handshake(telling: Telling) -> Telling:
    """Both ends open, with callbacks, states, records and a verdict."""
    return (
        telling.call("client", "connect(10.77.0.2:8080) → 0", 118)
        .state("client", "CLOSE → SYN_SENT", 5)
        .callback("client", "TCP_CONNECT", flags=0)
        .segment("client", "SYN seq 0")
        .callback("server", "TIMEOUT_INIT", flags=0)
        .callback("server", "RWND_INIT", flags=0, after=1)
        .segment("server", "SYN ACK seq 0 ack 1", 11)
        .state("client", "SYN_SENT → ESTABLISHED", 9)
        .callback("client", "ACTIVE_ESTABLISHED")
        .record("client", "OUTBOUND/ESTABLISHED 10.77.0.1:40000 → 10.77.0.2:8080 conn_success=1")
        .segment("client", "ACK ack 1")
        .state("server", "SYN_RECV → ESTABLISHED", 6)
        .callback("server", "PASSIVE_ESTABLISHED")
        .record("server", "INBOUND/ESTABLISHED 10.77.0.1:40000 → 10.77.0.2:8080 conn_success=1")
        .change("verdicts: + 10.77.0.1:40000 → 10.77.0.2:8080", "server")
        .call("server", "accept() → fd 9", 4, 22)
    )


def exchange(telling: Telling) -> Telling:
    return (
        telling.call("server", "recv(4096) → 5 bytes", 41, 5)
        .call("client", "send(5 bytes) → 5", 17)
        .segment("client", "PSH ACK seq 1 ack 1 length 5", 7)
        .segment("server", "ACK ack 6", 6)
    )


def closing(telling: Telling) -> Telling:
    return (
        telling.call("client", "close() → 0", 19, 2400)
        .callback("client", "STATE", "ESTABLISHED → FIN_WAIT1")
        .segment("client", "FIN ACK seq 6 ack 1")
        .callback("server", "STATE", "ESTABLISHED → CLOSE_WAIT")
        .segment("server", "ACK ack 7", 5)
        .callback("client", "STATE", "FIN_WAIT1 → FIN_WAIT2")
        .call("server", "close() → 0", 14, 30)
        .callback("server", "STATE", "CLOSE_WAIT → LAST_ACK")
        .segment("server", "FIN ACK seq 1 ack 7", 4)
        .callback("client", "STATE", "FIN_WAIT2 → CLOSE")
        .record("client", "OUTBOUND/CLOSE 10.77.0.1:40000 → 10.77.0.2:8080 sent_bytes=6")
        .segment("client", "ACK ack 2", 5)
        .callback("server", "STATE", "LAST_ACK → CLOSE")
        .record("server", "INBOUND/CLOSE 10.77.0.1:40000 → 10.77.0.2:8080 sent_bytes=1")
        .change("verdicts: − 10.77.0.1:40000 → 10.77.0.2:8080", "server")
    )


def managed() -> tuple[Event, ...]:
    """What user space does before."""
    return tuple(
        Event(START - 900 * _US + place * 20 * _US, Kind.CHANGE, f"managed: + {address}", None, details={})
        for place, address in enumerate((CLIENT, SERVER))
    )


def passed(test: str = "test_2_established.py::test_one_record_each[v4]") -> Story:
    """A connection that opens, carries five bytes and closes."""
    whole = closing(exchange(handshake(Telling()))).done()
    return Story(
        test,
        "each side makes one record when it is established",
        "passed",
        topology=PAIR,
        connections=(whole,),
        others=managed(),
        wall_ns=WALL,
    )


def lost_fin(test: str = "test_4_close.py::test_a_lost_fin_is_sent_again[v4]") -> Story:
    """The first FIN is dropped by a gate, the second held for a while; all ends well."""
    told = exchange(handshake(Telling()))
    told.call("client", "close() → 0", 19, 600).callback("client", "STATE", "ESTABLISHED → FIN_WAIT1")
    told.segment("client", "FIN ACK seq 6 ack 1", fate="dropped").gate(
        "client", "dropped FIN ACK, 1st of drop(Fin)", "drop"
    )
    told.callback("client", "RETRANS", after=204_000).segment("client", "FIN ACK seq 6 ack 1", fate="held")
    told.gate("client", "held FIN ACK, 1st of hold(Fin)", "hold").gate(
        "client", "released FIN ACK, 1st of hold(Fin)", "release", 5200
    )
    told.segment("client", "FIN ACK seq 6 ack 1", 2).callback("server", "STATE", "ESTABLISHED → CLOSE_WAIT")
    told.segment("server", "ACK ack 7").callback("client", "STATE", "FIN_WAIT1 → FIN_WAIT2")
    title = "a FIN that is lost is sent again, and the record still comes once"
    return Story(test, title, "passed", topology=PAIR, connections=(told.done(),), wall_ns=WALL)


def failed(test: str = "test_4_close.py::test_closing_deletes_the_verdict[v4]") -> Story:
    """The first of two connections misses its record, has a wrong one, and leaves an entry behind."""
    whole = closing(exchange(handshake(Telling())))
    lacking = "INBOUND/CLOSE"
    whole.events = [
        each
        for each in whole.events
        if not each.text.startswith((lacking, "verdicts: −")) and "sent_bytes=6" not in each.text
    ]
    whole.record("client", "OUTBOUND/CLOSE 10.77.0.1:40000 → 10.77.0.2:8080 sent_bytes=4294967295", 3)
    other = handshake(Telling(2, 40002, START + 60 * _US))
    told = whole.tuple
    differences = (
        Difference(
            "a record is missing",
            f"{lacking} {told} sent_bytes=1 received_bytes=6",
            "no such record until both sockets were closed",
            told,
            host="server",
        ),
        Difference(
            "a record's field is wrong",
            f"OUTBOUND/CLOSE {told} sent_bytes=6",
            f"OUTBOUND/CLOSE {told} sent_bytes=4294967295",
            told,
            host="client",
            link=("client", "server"),
        ),
        Difference("a verdict is left", "no entry", f"verdicts[{told}] = deny"),
    )
    return Story(
        test,
        "closing deletes the verdict, and each side makes a record",
        "failed",
        "AssertionError: 3 things are not as the contract says\n  a record is missing: INBOUND/CLOSE",
        PAIR,
        (whole.done(), other.done()),
        managed(),
        differences,
        wall_ns=WALL,
    )


def large(events: int, test: str = "test_6_limits.py::test_many[v4]") -> Story:
    """So many events, in connections that open and close one after the other."""
    connections: list[ConnectionStory] = []
    now, left = START, events
    while left > 0:
        telling = Telling(len(connections) + 1, 40000 + len(connections), now)
        one = closing(exchange(handshake(telling)))
        one.events = one.events[:left]
        now, left = one.now + 40 * _US, left - len(one.events)
        connections.append(one.done())
    return Story(test, "many connections", "passed", topology=PAIR, connections=tuple(connections))


def many(count: int) -> Iterator[Story]:
    """Stories of a large run; every fiftieth failed."""
    for number in range(count):
        name = f"test_2_established.py::test_number_{number}[v4]"
        yield failed(name) if number % 50 == 7 else passed(name)
