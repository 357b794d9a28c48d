"""In which order scenarios run: those that killed the mutants before come first.

What came before is a matter of the mutants' numbers, not of time: the order is the same whatever
runs side by side, as long as the verdicts are.
"""

from __future__ import annotations

from collections import Counter

_BATCH = 32


class Order:
    """Learns which scenario killed which mutant; ``count`` scenarios, mutants numbered from 0."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kills: dict[int, tuple[str, int | None]] = {}
        self._known = 0
        self._ever: Counter[int] = Counter()
        self._in_file: Counter[tuple[str, int]] = Counter()

    @staticmethod
    def needed(number: int) -> int:
        """How many mutants, the first ones, must have a verdict before that one is run."""
        return max(0, (number // _BATCH - 1) * _BATCH)

    def ready(self, number: int) -> bool:
        """Whether they have."""
        return all(before in self._kills for before in range(self._known, self.needed(number)))

    def learn(self, number: int, file: str, killer: int | None) -> None:
        """The verdict on a mutant: the scenario that failed, None where none did."""
        self._kills[number] = file, killer

    def of(self, number: int, file: str) -> tuple[int, ...]:
        """The order for a mutant of that file; mutants are asked for in their order, once `ready`."""
        for before in range(self._known, self.needed(number)):
            where, killer = self._kills[before]
            if killer is not None:
                self._ever[killer] += 1
                self._in_file[where, killer] += 1
        self._known = max(self._known, self.needed(number))
        return tuple(
            sorted(
                range(self._count),
                key=lambda item: (-self._in_file[file, item], -self._ever[item], item),
            )
        )
