"""The table of scenarios: every two values that can meet do meet in one of them.

A greedy cover, the same in every run: as long as a pair of values is not covered, a scenario is
made of it, and of those values of the other dimensions that cover most; of equals, of that which
was used least, measured by what it is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import cache
from itertools import chain, combinations

from testbed.kmesh.catalogue.case import DIMENSIONS, Case, Config, Managed, can_combine

_SIZE = len(DIMENSIONS)
_VALUES: tuple[Enum, ...] = tuple(value for values in DIMENSIONS for value in values)
_DIMENSION = tuple(number for number, values in enumerate(DIMENSIONS) for _ in values)
_OF_DIMENSION = tuple(
    tuple(number for number, of in enumerate(_DIMENSION) if of == dimension) for dimension in range(_SIZE)
)


def _partners(number: int) -> int:
    """The values that one can be combined with, as bits."""
    return sum(
        1 << other
        for other in range(len(_VALUES))
        if _DIMENSION[other] != _DIMENSION[number] and can_combine(_VALUES[number], _VALUES[other])
    )


def _others(chosen: Sequence[int]) -> list[int]:
    """The dimensions that nothing is chosen of yet."""
    there = {_DIMENSION[number] for number in chosen}
    return [dimension for dimension in range(_SIZE) if dimension not in there]


# Who is managed is what there is something to see of.
_WORTH: dict[Enum, int] = {Managed.BOTH: 3, Config.DEFAULT: 3}


class _Cover:
    """Values are numbers here, sets of values the bits of an int: Enums are slow to compare."""

    def __init__(self, without: frozenset[Enum]) -> None:
        self._of_dimension = [
            [number for number in numbers if _VALUES[number] not in without] for numbers in _OF_DIMENSION
        ]
        self._partners = [_partners(number) for number in range(len(_VALUES))]
        self._used = [0.0] * len(_VALUES)
        self._wanted = [0] * len(_VALUES)
        self.pairs = [
            (a, b)
            for a, b in combinations(sorted(chain(*self._of_dimension)), 2)
            if self._partners[a] >> b & 1 and self._exists(self._allowed((a, b)), _others((a, b)))
        ]
        for a, b in self.pairs:
            self._wanted[a] |= 1 << b
            self._wanted[b] |= 1 << a

    def _allowed(self, chosen: Sequence[int]) -> int:
        """What can be combined with all that is chosen, as bits."""
        allowed = -1
        for number in chosen:
            allowed &= self._partners[number]
        return allowed

    def _exists(self, allowed: int, dimensions: Sequence[int]) -> bool:
        """Whether each of the dimensions has a value that fits: the same as `_completed`, unsorted."""
        if not dimensions:
            return True
        dimension, *others = dimensions
        return any(
            allowed >> number & 1 and self._exists(allowed & self._partners[number], others)
            for number in self._of_dimension[dimension]
        )

    def _completed(self, chosen: list[int], allowed: int, dimensions: Sequence[int]) -> list[int] | None:
        """With a value for each of the dimensions; None when what is chosen excludes every value of one."""
        if not dimensions:
            return chosen
        dimension, *others = dimensions
        bits = sum(1 << number for number in chosen)
        fitting = [number for number in self._of_dimension[dimension] if allowed >> number & 1]
        fitting.sort(key=lambda number: (-(self._wanted[number] & bits).bit_count(), self._used[number]))
        for number in fitting:
            if done := self._completed([*chosen, number], allowed & self._partners[number], others):
                return done
        return None

    def take(self, pair: tuple[int, int]) -> list[int] | None:
        """The values of a scenario with that pair, in order; None when there is one already."""
        if not self._wanted[pair[0]] >> pair[1] & 1:
            return None
        done = self._completed(list(pair), self._allowed(pair), _others(pair))
        assert done is not None, "a pair to cover has a scenario"
        bits = sum(1 << number for number in done)
        for number in done:
            self._wanted[number] &= ~bits
            self._used[number] += 1 / _WORTH.get(_VALUES[number], 1)
        return sorted(done)


def pairs_to_cover(without: frozenset[Enum] = frozenset()) -> list[tuple[Enum, Enum]]:
    """Every two values of different dimensions that some scenario can have."""
    return [(_VALUES[a], _VALUES[b]) for a, b in _Cover(without).pairs]


@cache
def catalogue(without: frozenset[Enum] = frozenset()) -> tuple[Case, ...]:
    """The scenarios, in the order of how they open and close; ``without`` are values to do without."""
    cover = _Cover(without)
    cases = sorted(values for pair in cover.pairs if (values := cover.take(pair)))
    return tuple(Case(*(_VALUES[number] for number in values)) for values in cases)  # type: ignore[arg-type]
