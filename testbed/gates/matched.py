"""What a gate did with a segment: as the program tells it, and as it is shown."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from testbed.gates.kinds import flag_names
from testbed.lab.family import ConnTuple, endpoint, unmapped_bytes

_EVENT = struct.Struct("=QIIIIII16s16sHHBBBxII")


class Action(IntEnum):
    """``enum gate_action``; of a rule, and of an event."""

    PASS = 1
    DROP = 2
    HOLD = 3
    DUPLICATE = 4
    CORRUPT = 5
    RELEASED = 6

    @property
    def verb(self) -> str:
        """What has been done, in a word."""
        return _VERBS[self]


_VERBS = {
    Action.PASS: "passed",
    Action.DROP: "dropped",
    Action.HOLD: "held",
    Action.DUPLICATE: "duplicated",
    Action.CORRUPT: "corrupted",
    Action.RELEASED: "released",
}
LOST = "lost"
"""The verb of what was held, and then never arrived."""


class GateEvent(NamedTuple):
    """One record of the ring (``struct gate_event`` of bpf/include/gate_maps.h).

    ``ends`` run from the segment's sender; ``frame`` is empty unless the segment is held.
    """

    time_ns: int
    gate: int
    number: int
    interface: int
    seq: int
    ack: int
    payload: int
    ends: ConnTuple
    action: Action
    flags: int
    gso_size: int
    frame: bytes

    @property
    def identity(self) -> tuple[ConnTuple, int, int, int]:
        """What a segment that is held has in common with itself when it is released."""
        return self.ends, self.seq, self.flags, self.payload


@dataclass(frozen=True, slots=True)
class Matched:
    """Something that a gate did. ``time_ns`` is CLOCK_MONOTONIC, sequence numbers are those on the wire.

    ``verb`` is passed, dropped, held, duplicated, corrupted, or of what was held released or lost;
    ``number`` counts the segments of the gate's kind, from 1; it is 0 of what was held before.
    ``tuple`` runs from the host that sent the segment. ``flags`` are byte 13 of TCP's header,
    ``payload`` is in bytes.
    """

    time_ns: int
    gate: str
    verb: str
    number: int
    sender: str
    to: str
    tuple: ConnTuple
    flags: int
    seq: int
    ack: int
    payload: int

    @property
    def words(self) -> str:
        """``held FIN ACK, 1st of hold(Fin)``."""
        size = f", {self.payload} B" if self.payload else ""
        which = f", {_ordinal(self.number)} of {self.gate}" if self.number else f" by {self.gate}"
        return f"{self.verb} {flag_names(self.flags)}{size}{which}"

    def __str__(self) -> str:
        source = endpoint(self.tuple.src, self.tuple.sport)
        destination = endpoint(self.tuple.dst, self.tuple.dport)
        numbers = f"seq {self.seq}, ack {self.ack}"
        return f"{self.words}: {self.sender} {source} → {self.to} {destination}, {numbers}"


def decode_event(data: bytes) -> GateEvent:
    """Of one record of the ring."""
    (
        time_ns,
        gate,
        number,
        interface,
        seq,
        ack,
        payload,
        source,
        destination,
        source_port,
        destination_port,
        action,
        flags,
        version,
        frame_size,
        gso_size,
    ) = _EVENT.unpack_from(data)
    size = 4 if version == 4 else 16
    ends = ConnTuple(
        unmapped_bytes(source[:size]), source_port, unmapped_bytes(destination[:size]), destination_port
    )
    frame = data[_EVENT.size : _EVENT.size + frame_size]
    return GateEvent(
        time_ns,
        gate,
        number,
        interface,
        seq,
        ack,
        payload,
        ends,
        Action(action),
        flags,
        gso_size,
        frame,
    )


def _ordinal(number: int) -> str:
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(number % 10, 'th')}"
