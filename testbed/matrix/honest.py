"""Skips that are none: what ran on a kernel cannot be missing from a newer one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from testbed.bpf.since import Version, version_of
from testbed.matrix.model import CellResult
from testbed.report.results import Result

_RAN = {"passed", "failed"}


def without_false_skips(columns: Sequence[CellResult]) -> list[CellResult]:
    """The same columns; a scenario that is skipped although it ran on an older kernel has failed there."""
    oldest: dict[str, tuple[Version, str]] = {}
    for column in columns:
        for result in column.results:
            if result.outcome in _RAN:
                ran = (version_of(column.guest.release or column.label), column.label)
                oldest[result.nodeid] = min(ran, oldest.get(result.nodeid, ran))
    return [
        replace(column, results=tuple(_judged(result, column, oldest) for result in column.results))
        for column in columns
    ]


def _judged(result: Result, column: CellResult, oldest: dict[str, tuple[Version, str]]) -> Result:
    if result.outcome != "skipped" or result.nodeid not in oldest:
        return result
    since, label = oldest[result.nodeid]
    if version_of(column.guest.release or column.label) <= since:
        return result
    words = f"skipped, although it ran on {label}, which is older: {result.details}"
    return replace(result, outcome="failed", details=words)
