"""How often something failed, with what can be said from so many runs; and in how many ways."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

_Z = 1.959964  # of the normal distribution: 95 % lie within
_MODULES = re.compile(r"^(?:\w+\.)+(?=\w+: )")  # of an exception's class
_ASSERTED = re.compile(r"AssertionError$|(?:AssertionError: )?assert\b")
_PLACE = re.compile(r"^(?P<place>.+:\d+): in ")  # as pytest tells it in short
_HINT = re.compile(r"^E +Use -v+ to get .*\n?|, use '?-v+'? to show", re.MULTILINE)
_VIOLATED = "the contract was not kept"
_ADDRESSES = re.compile(r"0x[0-9a-f]+|\b\d+\.\d+ ?m?s\b|(?<=:)\d{2,5}\b|\b\d{4,}\b")


def wilson(failed: int, runs: int) -> tuple[float, float]:
    """The 95 % interval of a share, from 0 to 1 (E. B. Wilson, 1927): it holds for few runs too."""
    if not runs:
        return 0.0, 1.0
    share, square = failed / runs, _Z * _Z
    middle = share + square / (2 * runs)
    half = _Z * math.sqrt(share * (1 - share) / runs + square / (4 * runs * runs))
    scale = 1 + square / runs
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


@dataclass
class Tally:
    """Of the runs so far: how many failed, in which ways, and how many could not be run."""

    failed: int = 0
    passed: int = 0
    skipped: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    why_skipped: str = ""

    @property
    def runs(self) -> int:
        return self.failed + self.passed

    def add(self, outcome: str, violated: tuple[str, ...], details: str) -> None:
        """One more run, by its outcome as `testbed.report.results.Result` has it."""
        if outcome == "passed":
            self.passed += 1
        elif outcome == "skipped":
            self.skipped += 1
            self.why_skipped = self.why_skipped or details
        else:
            self.failed += 1
            way = "; ".join(violated) or way_of(details)
            self.ways[way] += 1
            self.examples.setdefault(way, _HINT.sub("", details))

    def __str__(self) -> str:
        """``17 of 500 failed (3.4 %, 95 % interval 2.1–5.4 %)``."""
        if not self.runs:
            return "nothing was run" if not self.skipped else f"skipped: {self.why_skipped}"
        low, high = wilson(self.failed, self.runs)
        share = 100 * self.failed / self.runs
        return (
            f"{self.failed} of {self.runs} failed "
            f"({share:.1f} %, 95 % interval {100 * low:.1f}–{100 * high:.1f} %)"
        )


def way_of(details: str) -> str:
    """What a failure has in common with others of its kind: its error, without what each run has anew.

    Of a plain assertion, whose values pytest shortens, that is its line: ``test_x.py:35: assert …``.
    """
    lines = [line.strip() for line in details.splitlines() if line.strip()]
    errors = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")]
    first = next(iter(errors), lines[0] if lines else "it says nothing")
    if errors and _ASSERTED.match(first) and (line := _asserted(lines)):
        return line[:300]
    return _ADDRESSES.sub("…", _MODULES.sub("", first))[:300]


def _asserted(lines: Sequence[str]) -> str:
    """The last line of a test's that is told before the error, with its place; empty where none is."""
    found = ""
    for line, source in pairwise(lines):
        if line.startswith("E "):
            break
        if (match := _PLACE.match(line)) and not source.startswith("E "):
            found = f"{match['place']}: {source}"
    return found


def heading_of(way: str, example: str) -> str:
    """What stands above the failures of one way: where the contract was violated, how it first was."""
    lines = example.splitlines()
    return lines[1] if len(lines) > 1 and lines[0].startswith(_VIOLATED) else way
