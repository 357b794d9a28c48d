"""What the records of each ring add up to, decoded only as far as that needs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from testbed.bpf.maps import Map
from testbed.errors import errno_name
from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Direction, PortOrder, Verdict
from testbed.kmesh.layouts import Layout
from testbed.kmesh.log_event import LogEvent
from testbed.kmesh.records import TUPLE_SIZE

_OUT, _IN = Direction.OUTBOUND, Direction.INBOUND
_BITS = {
    (_OUT, TcpState.ESTABLISHED): 1,
    (_IN, TcpState.ESTABLISHED): 2,
    (_OUT, TcpState.CLOSE): 4,
    (_IN, TcpState.CLOSE): 8,
}
OF_CLIENT, OF_SERVER = 1 | 4, 2 | 8
_IN_CLOSE = 8

Closed = Callable[[bytes, int], None]


class Connections:
    """Observe records by connection: which have all of their records, each exactly once.

    ``whole`` bits are `OF_CLIENT`, `OF_SERVER` or both, as the hosts are managed. A connection is
    forgotten when it is whole, so that its tuple may come again.
    """

    def __init__(self, layout: Layout, whole: int, closed: Closed | None = None, keep: int = 0) -> None:
        """``closed`` is told each server's close: its tuple's bytes and when that was, in ns.

        The ``first`` records are kept as they are, at least so many as ``keep``.
        """
        self.whole = 0
        self.repeated = 0
        self.malformed = 0
        self.unfinished: dict[bytes, int] = {}
        self.first: list[bytes] = []
        self._layout = layout
        self._all = whole
        self._closed = closed
        self._keep = keep

    def take(self, records: Sequence[bytes]) -> None:
        """Adds records up."""
        if len(self.first) < self._keep:
            self.first += records
        layout, unfinished, everything = self._layout, self.unfinished, self._all
        at = layout.fields["tuple"][0]
        direction, state = layout.fields["direction"][0], layout.fields["state"][0]
        for record in records:
            bit = _BITS_OF.get((record[direction], record[state])) if len(record) == layout.size else None
            if bit is None:
                self.malformed += 1
                continue
            key = record[at : at + TUPLE_SIZE]
            seen = unfinished.get(key, 0)
            self.repeated += bool(seen & bit)
            if seen | bit == everything:
                del unfinished[key]
                self.whole += 1
            else:
                unfinished[key] = seen | bit
            if self._closed is not None and bit == _IN_CLOSE:
                self._closed(key, layout.number(record, "last_report_ns"))


_BITS_OF = {(int(direction), int(state)): bit for (direction, state), bit in _BITS.items()}


@dataclass
class Authorizer:
    """Writes a verdict for each request, if it is to, and knows which came too late.

    The program deletes a verdict when its connection closes: one that is written after that stays
    for ever, whoever wrote it. So of each verdict it is noted when it had been written, until the
    server's close is reported.
    """

    layout: Layout
    verdicts: Map | None
    observe_ports: PortOrder = "little"
    auth_ports: PortOrder = "little"
    requests: int = 0
    malformed: int = 0
    written: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    late: set[bytes] = field(default_factory=set)
    in_time: int = 0
    _written_ns: dict[bytes, int] = field(default_factory=dict)
    _closed_ns: dict[bytes, int] = field(default_factory=dict)

    def take(self, records: Iterable[bytes]) -> None:
        """Judges requests: allowed, all of them."""
        at = self.layout.fields["tuple"][0]
        for record in records:
            if len(record) != self.layout.size:
                self.malformed += 1
                continue
            self.requests += 1
            if self.verdicts is not None:
                self._write(self.verdicts, record[at : at + TUPLE_SIZE])

    def _write(self, verdicts: Map, key: bytes) -> None:
        try:
            verdicts.set(key, int(Verdict.ALLOW).to_bytes(verdicts.value_size, "little"))
        except OSError as error:
            self.refused[errno_name(error.errno or 0)] += 1
            return
        self.written += 1
        self._written_ns[key] = time.monotonic_ns()
        self._compare(key)

    def closed(self, key: bytes, at_ns: int) -> None:
        """A server's close was reported; the report's time is before the verdict is deleted."""
        if self.verdicts is None:
            return
        if self.observe_ports != self.auth_ports:
            key = _other_order(key)
        self._closed_ns[key] = at_ns
        self._compare(key)

    def _compare(self, key: bytes) -> None:
        if key not in self._written_ns or key not in self._closed_ns:
            return
        if self._written_ns.pop(key) < self._closed_ns.pop(key):
            self.in_time += 1
            self.late.discard(key)  # of an earlier connection with the same ports
        else:
            self.late.add(key)

    def untold(self, key: bytes) -> bool:
        """Whether a verdict was written for a connection whose close was not reported."""
        return key in self._written_ns


def _other_order(key: bytes) -> bytes:
    """A tuple with the bytes of its ports swapped."""
    at = 32 if any(key[12:]) else 8
    sport, dport = key[at : at + 2][::-1], key[at + 2 : at + 4][::-1]
    return key[:at] + sport + dport + key[at + 4 :]


@dataclass
class Complaints:
    """What the program logged, counted by its words."""

    counts: Counter[str] = field(default_factory=Counter)

    def take(self, records: Iterable[bytes]) -> None:
        """Adds log events up: ``words: EERRNO`` where the program logged a code."""
        for record in records:
            event = LogEvent.decode(record)
            code = f": {errno_name(event.ret)}" if event.ret else ""
            self.counts[f"{event.message}{code}"] += 1
