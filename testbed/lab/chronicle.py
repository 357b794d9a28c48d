"""What others than the witnesses know of what happened in a lab, for whoever tells its story."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from testbed.lab.family import ConnTuple


@dataclass(frozen=True)
class Note:
    """Something that was done to a connection. ``time_ns`` is CLOCK_MONOTONIC.

    A ``gate`` did it to a segment, which ``host`` sent ``to`` another; ``connection`` runs from it. A
    ``redirect`` did it to a connect(), of the socket with this ``cookie``.
    """

    time_ns: int
    kind: Literal["gate", "redirect"]
    text: str
    host: str | None = None
    to: str | None = None
    cookie: int | None = None
    connection: ConnTuple | None = None


class Chronicle(Protocol):
    """Has notes of a lab, also once it has ended."""

    def notes(self) -> Iterable[Note]:
        """Everything so far."""
