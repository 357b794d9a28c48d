"""One record, expected against seen, field by field."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import NamedTuple, TypeVar

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.oracle.model import ExpectedRecord
from testbed.kmesh.records import Destination, ObserveRecord
from testbed.lab.family import endpoint

T = TypeVar("T")
# A field of the record, and the name of what the kernel counted (`testbed.observe.callbacks.Figures`).
_FIGURES = (
    ("sent_bytes", "bytes_acked"),
    ("received_bytes", "bytes_received"),
    ("srtt_us", "srtt_us"),
    ("rtt_min", "rtt_min"),
    ("total_retrans", "total_retrans"),
    ("lost_out", "lost_out"),
)


class Field(NamedTuple):
    """A field: whether it is as it has to be; what it had to be and what it was, in words when wanted."""

    name: str
    kept: bool
    expected: Callable[[], str]
    seen: Callable[[], str]

    def __str__(self) -> str:
        if self.kept:
            return f"  {self.name:<15}{self.seen()}"
        return f"✗ {self.name:<15}expected {self.expected()}, seen {self.seen()}"


def _same(name: str, expected: T, seen: T, told: Callable[[T], str] = str) -> Field:
    return Field(name, expected == seen, lambda: told(expected), lambda: told(seen))


def _between(name: str, earliest: int, latest: int, seen: int) -> Field:
    """Times, told in microseconds from the earliest."""
    return Field(
        name,
        earliest <= seen <= latest,
        lambda: f"0 to {(latest - earliest) / 1000:.1f} µs after the earliest possible",
        lambda: f"{(seen - earliest) / 1000:.1f} µs",
    )


def _name(one: IntEnum) -> str:
    return one.name


def _ns(nanoseconds: int) -> str:
    return f"{nanoseconds} ns"


def _asked(destination: Destination | None) -> str:
    return "none" if destination is None else endpoint(*destination)


def compare(expected: ExpectedRecord, seen: ObserveRecord) -> list[Field]:
    """Every field that the era's records have and the contract has a word on."""
    return [
        _same("direction", expected.direction, seen.direction, _name),
        _same("state", expected.state, seen.state, _name),
        _same("tuple", expected.tuple, seen.tuple),
        *_numbers(expected, seen),
        *_times(expected, seen),
        _same("unused bytes", "all zero", seen.stale or "all zero"),
    ]


def _numbers(expected: ExpectedRecord, seen: ObserveRecord) -> Iterator[Field]:
    yield _same("conn_success", 1, seen.values["conn_success"])
    if "orig_dst" in seen.layout.fields:
        yield _same("orig_dst", expected.asked_for, seen.destination, _asked)
    if "protocol" in seen.values:
        yield _same("protocol", int(socket.IPPROTO_TCP), seen.values["protocol"])
    for name, counted in _FIGURES:
        if name in seen.values:
            yield _same(name, getattr(expected.callback.figures, counted), seen.values[name])


def _times(expected: ExpectedRecord, seen: ObserveRecord) -> Iterator[Field]:
    """All of CLOCK_MONOTONIC. What an era's record does not tell cannot be compared."""
    written = expected.callback.time_ns
    start, report = seen.values.get("start_ns"), seen.values.get("last_report_ns")
    if start is not None:
        yield _between("start_ns", expected.start_from_ns, expected.start_to_ns, start)
    if report is not None:
        yield _between("last_report_ns", expected.after_ns, written, report)
    if start is not None and report is not None:
        yield _same("duration", report - start, seen.values["duration"], _ns)
    elif expected.state is TcpState.CLOSE and "duration" in seen.values:
        shortest = max(0, expected.after_ns - expected.start_to_ns)
        longest = written - expected.start_from_ns
        duration = seen.values["duration"]
        kept = shortest <= duration <= longest
        yield Field("duration", kept, lambda: f"{shortest} to {longest} ns", lambda: _ns(duration))
