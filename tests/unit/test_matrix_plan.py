"""Cells of a matrix: how kernels are shared out, and joined again."""

from __future__ import annotations

import pytest

from testbed.guest.state import GuestReport, GuestState
from testbed.matrix.cell import Cell
from testbed.matrix.merge import merge, merge_by_label
from testbed.matrix.plan import GUEST_MEMORY, default_jobs, plan
from tests.matrix_results import BOOTED, PANIC, column

GIB = GUEST_MEMORY


@pytest.mark.parametrize(
    ("kernels", "jobs", "most", "shares"),
    [
        (1, 1, 8, [1]),
        (1, 2, 8, [2]),
        (1, 16, 8, [8]),  # more would boot more than they run
        (1, 16, 1, [1]),
        (2, 2, 8, [1, 1]),
        (3, 2, 8, [1, 1, 2]),
        (3, 4, 8, [1, 1, 1]),
        (2, 4, 8, [2, 2]),
        (5, 4, 8, [1, 1, 1, 1, 4]),
        (12, 2, 8, [1] * 12),
        (0, 2, 8, []),
    ],
)
def test_a_last_round_is_split(kernels: int, jobs: int, most: int, shares: list[int]) -> None:
    whole = [Cell(str(index), str(index)) for index in range(kernels)]
    cells = plan(whole, jobs, most)
    assert [(cell.label, cell.share, cell.shares) for cell in cells] == [
        (str(index), share, count) for index, count in enumerate(shares) for share in range(count)
    ]


@pytest.mark.parametrize(
    ("cores", "memory", "kernels", "scenarios", "jobs"),
    [
        (2, 8 * GIB, 12, 504, 2),
        (16, 3 * GIB, 12, 504, 3),
        (16, 64 * GIB, 4, 504, 16),
        (16, 64 * GIB, 4, 10, 4),  # ten scenarios are not worth a second guest of one kernel
        (1, 0, 1, 0, 1),
    ],
)
def test_default_jobs(cores: int, memory: int, kernels: int, scenarios: int, jobs: int) -> None:
    assert default_jobs(cores, memory, kernels, scenarios) == jobs


def test_shares_become_a_column() -> None:
    one = column("6.1", "pp..", BOOTED)
    two = column("6.1", "..fs", GuestReport(GuestState.BOOTED, "6.1.0", 8.5, 20.0))
    joined = merge([two, one])
    assert [result.outcome for result in joined.results] == ["passed", "passed", "failed", "skipped"]
    assert (joined.guest.ready, joined.guest.seconds, joined.guest.state) == (8.5, 30.25, "booted")


def test_the_worst_guest_is_the_column_s() -> None:
    lost = GuestReport(GuestState.LOST, why="QEMU was killed by signal 9")
    labels = merge_by_label([column("6.1", "p"), column("7.2", ".p", lost), column("7.2", "p.", PANIC)])
    assert [each.label for each in labels] == ["6.1", "7.2"]
    assert (labels[1].guest.state, labels[1].guest.console) == (GuestState.PANIC, PANIC.console)
    assert len(labels[1].results) == 2


def test_each_state_has_its_place() -> None:
    for state in GuestState:
        report = GuestReport(state)
        assert merge([column("6.1", "p"), column("6.1", "p", report)]).guest.state is state
