"""The quick choice: each scenario in one of its families, and of a catalogue every fourth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from testbed.report.about import about

_EVERY = 4  # of a catalogue, whose scenarios have one family each: as of the others, where there are four
_ALL = {1: "all", 2: "all, in both", 3: "all, in all three", 4: "all, in all four"}


def in_one_family(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Which of them to run, and which to leave out; in their order.

    Of a scenario's families it is the one that was chosen least so far in its file, of equals the one
    that was least in all, then its first: so each has about as much to do, in every file. Scenarios that
    share a row of the table have a family each: every fourth of them is run. The same ones are chosen in
    every run; ``-k`` chooses among these.
    """
    scenarios: dict[tuple[str, ...], dict[str, pytest.Item]] = {}
    catalogue: list[pytest.Item] = []
    for item in items:
        told = about(item)
        if told.row:
            catalogue.append(item)
        else:
            name = getattr(item, "originalname", item.name)
            scenarios.setdefault((item.location[0], name, told.variant), {})[told.family] = item
    used: Counter[tuple[str, str]] = Counter()  # by file and family; by "" and family in all
    chosen = set(catalogue[::_EVERY])
    for (file, *_), families in scenarios.items():
        family = min(families, key=lambda each: (used[file, each], used["", each]))
        used.update(((file, family), ("", family)))
        chosen.add(families[family])
    return [item for item in items if item in chosen], [item for item in items if item not in chosen]


def not_done(families: Sequence[str]) -> str:
    """For the last line of a run that was quick: what it left out."""
    return f", each in one family, every {_EVERY}th of the catalogue; without --quick: {_ALL[len(families)]}"
