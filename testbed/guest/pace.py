"""How slow a guest is, which its deadlines are multiplied by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

_LOOPS = 40e6
"""Turns of an empty Python loop in a second, on a machine that deadlines are written for."""
_SLOWEST = 64.0


@dataclass(frozen=True)
class Pace:
    """``scale`` is how many times slower than such a machine it is, at least 1."""

    scale: float

    @classmethod
    def of(cls, loops: float) -> Self:
        """Of a guest that does so many turns of an empty loop in a second."""
        return cls(min(max(_LOOPS / loops, 1.0), _SLOWEST))

    @classmethod
    def slowest(cls) -> Self:
        """Of a guest that has not been measured."""
        return cls(_SLOWEST)

    def seconds(self, seconds: float) -> float:
        """A deadline for it."""
        return seconds * self.scale
