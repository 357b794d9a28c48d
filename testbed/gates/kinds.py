"""Which segments a gate is about."""

from __future__ import annotations

from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_ORDER = ("SYN", "FIN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")


@dataclass(frozen=True)
class SegmentKind:
    """Segments whose flags (byte 13 of TCP's header) are ``flags`` where ``mask`` has a bit.

    ``payload``: True of those with some, False of those without any, None of both.
    """

    name: str
    mask: int = 0
    flags: int = 0
    payload: bool | None = None

    def __str__(self) -> str:
        return self.name


Syn = SegmentKind("Syn", SYN | ACK, SYN)
"""Opens a connection; with data in it too (TCP Fast Open)."""
SynAck = SegmentKind("SynAck", SYN | ACK, SYN | ACK)
Ack = SegmentKind("Ack", SYN | FIN | RST | ACK, ACK, payload=False)
"""Nothing but an acknowledgement: also a keepalive probe, and a change of the window."""
Data = SegmentKind("Data", SYN | RST, 0, payload=True)
"""Carries payload; perhaps a FIN besides."""
Fin = SegmentKind("Fin", FIN, FIN)
"""Ends a direction; perhaps with payload."""
Rst = SegmentKind("Rst", RST, RST)
Any = SegmentKind("Any")


def flag_names(flags: int) -> str:
    """``SYN ACK`` and the like; ``no flags``."""
    there = {name for bit, name in enumerate(_NAMES) if flags >> bit & 1}
    return " ".join(name for name in _ORDER if name in there) or "no flags"
