"""Shares of one kernel are joined to its column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from testbed.guest.state import GuestState
from testbed.matrix.model import CellResult
from testbed.report.results import in_order

# What says most of a kernel comes last: a share that panicked tells more than one that ended well.
_SEVERITY = (
    GuestState.BOOTED,
    GuestState.NO_BPF,
    GuestState.LOST,
    GuestState.NO_BOOT,
    GuestState.HANG,
    GuestState.OUT_OF_MEMORY,
    GuestState.PANIC,
)


def merge(shares: Sequence[CellResult]) -> CellResult:
    """The column of one label: the worst guest's state and console, the longest time, all results."""
    guests = [share.guest for share in shares]
    worst = max(guests, key=lambda guest: _SEVERITY.index(guest.state))
    guest = replace(
        worst,
        release=next((each.release for each in guests if each.release), ""),
        ready=max((each.ready for each in guests if each.ready is not None), default=None),
        seconds=max(each.seconds for each in guests),
        warm=all(each.warm for each in guests),
        accelerator=next((each.accelerator for each in guests if each.accelerator), ""),
    )
    results = {result.nodeid: result for share in shares for result in share.results}
    errors = dict.fromkeys(share.error for share in shares if share.error)
    return CellResult(shares[0].label, guest, tuple(in_order(results)), "\n".join(errors))


def merge_by_label(results: Iterable[CellResult]) -> list[CellResult]:
    """Columns, in the order in which their labels come first."""
    shares: dict[str, list[CellResult]] = {}
    for result in results:
        shares.setdefault(result.label, []).append(result)
    return [merge(each) for each in shares.values()]
