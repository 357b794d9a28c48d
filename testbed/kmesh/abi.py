"""Numbers of the program set's interface that are the same in every era."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

PortOrder = Literal["little", "big"]
HOST_ORDER: PortOrder = "little"
NETWORK_ORDER: PortOrder = "big"


class Direction(IntEnum):
    """Seen from the host that reports: accepted there, or connected from there."""

    INBOUND = 1
    OUTBOUND = 2


class Verdict(IntEnum):
    """What user space decided on a connection."""

    ALLOW = 0
    DENY = 1


class Absent(Exception):
    """Something that the era, or the set of objects, does not have: what, and why.

    A test that needs it is skipped with these words.
    """
