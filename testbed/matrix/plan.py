"""Which cells a matrix is made of: kernels, shared out among the jobs that there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from testbed.matrix.cell import Cell

GUEST_MEMORY = 1 << 30  # bytes that a guest is counted with: its own memory, and QEMU's
MOST_SHARES = 8  # of one kernel: each of them boots a guest
SHARE_WORTH = 60  # scenarios, at least, that a guest is booted for if another is at it already


def plan(kernels: Sequence[Cell], jobs: int, most_shares: int = MOST_SHARES) -> list[Cell]:
    """The cells to run, in the order to begin them. ``kernels`` has a whole cell for each kernel.

    Kernels run whole, ``jobs`` at a time. Those of the last round that would leave jobs idle are split
    into equal shares, at most ``most_shares`` each.
    """
    whole = len(kernels) // jobs * jobs
    last = kernels[whole:]
    shares = min(jobs // len(last), most_shares) if last else 1
    split = [replace(cell, share=share, shares=shares) for cell in last for share in range(shares)]
    return [*kernels[:whole], *split]


def default_jobs(cores: int, memory: int, kernels: int, scenarios: int) -> int:
    """Guests to run at a time on one machine: ``memory`` in bytes, ``scenarios`` of one kernel.

    A guest keeps one core busy, with KVM as well as without: most of a scenario is the kernel's work.
    """
    return max(1, min(cores, memory // GUEST_MEMORY, kernels * worth_shares(scenarios)))


def worth_shares(scenarios: int) -> int:
    """Into how many shares so many scenarios may be split: booting one more guest has to pay."""
    return max(1, min(MOST_SHARES, scenarios // SHARE_WORTH))
