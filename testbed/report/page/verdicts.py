"""The table of verdicts: a row for each scenario, a column for each family, what failed first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from testbed.report.shown import on_a_line
from testbed.runs.model import Verdict

OUTCOMES = (("failed", "FAIL"), ("error", "ERROR"), ("passed", "pass"), ("skipped", "skip"))
_STYLES = {"failed": "fail", "error": "error", "passed": "pass", "skipped": "skip"}
_WORDS = dict(OUTCOMES)
_TITLE = 400


@dataclass(frozen=True)
class Cell:
    """One square: its word, its style, what it links to."""

    word: str
    style: str
    link: str


@dataclass(frozen=True)
class Row:
    """A scenario, or those that share a row; a cell for each family, None where it was not run."""

    title: str
    variant: str
    heading: str
    outcomes: tuple[str, ...]
    cells: tuple[Cell | None, ...]
    families: str


def bad(outcome: str) -> bool:
    return outcome in {"failed", "error"}


def word_of(outcome: str) -> str:
    """As the terminal's table has it; capitals for what is wrong."""
    return _WORDS.get(outcome) or on_a_line(outcome, 12)


def style_of(outcome: str) -> str:
    return _STYLES.get(outcome, "none")


def rows_of(verdicts: Iterable[Verdict], anchors: Mapping[str, str]) -> tuple[list[Row], tuple[str, ...]]:
    """The rows and the families. ``anchors`` are what a test's square links to, by test."""
    by_row: dict[tuple[str, str, str], dict[str, list[Verdict]]] = {}
    families: dict[str, None] = {}
    for each in verdicts:
        families.setdefault(each.family)
        key = (each.heading, each.row or each.title, each.variant)
        by_row.setdefault(key, {}).setdefault(each.family, []).append(each)
    rows = []
    for (heading, title, variant), by_family in by_row.items():
        outcomes = tuple(dict.fromkeys(each.outcome for found in by_family.values() for each in found))
        cells = tuple(_cell(by_family.get(family, []), anchors) for family in families)
        row = Row(
            on_a_line(title, _TITLE),
            on_a_line(variant, _TITLE),
            on_a_line(heading, _TITLE),
            outcomes,
            cells,
            on_a_line(" ".join(by_family), _TITLE),
        )
        rows.append(row)
    rows.sort(key=lambda row: not any(map(bad, row.outcomes)))
    return rows, tuple(families)


def _cell(verdicts: list[Verdict], anchors: Mapping[str, str]) -> Cell | None:
    if not verdicts:
        return None
    counts = Counter(each.outcome for each in verdicts)
    worst = next((outcome for outcome in ("error", "failed", "passed", "skipped") if counts[outcome]), "")
    chosen = next((each for each in verdicts if each.outcome == worst), verdicts[0])
    word = word_of(chosen.outcome)
    if len(verdicts) > 1:
        word = (
            f"{counts[chosen.outcome]} of {len(verdicts)} {word}" if bad(worst) else f"{counts[worst]} {word}"
        )
    link = next(
        (anchors[each.test] for each in verdicts if each.outcome == worst and each.test in anchors), ""
    )
    return Cell(word, style_of(chosen.outcome), link)
