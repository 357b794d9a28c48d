"""Since when a kernel has what programs call, and skips that a newer kernel does not excuse."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.bpf.kinds import ProgramKind
from testbed.bpf.since import helper_since, version_of
from testbed.guest.state import GuestReport, GuestState
from testbed.matrix.honest import without_false_skips
from testbed.matrix.model import CellResult
from testbed.report.about import About
from testbed.report.results import Result

SOCKOPS, XDP = ProgramKind.SOCKOPS.prog_type, ProgramKind.XDP.prog_type
SINCE = [
    ("bpf_map_lookup_elem", SOCKOPS, (5, 10)),
    ("bpf_redirect_peer", SOCKOPS, (5, 10)),
    ("bpf_ktime_get_coarse_ns", SOCKOPS, (5, 11)),
    ("bpf_get_netns_cookie", SOCKOPS, (5, 15)),
    ("bpf_get_netns_cookie", ProgramKind.SK_MSG.prog_type, (5, 15)),
    ("bpf_get_netns_cookie", ProgramKind.CONNECT4.prog_type, (5, 10)),
    ("bpf_trace_vprintk", SOCKOPS, (5, 16)),
    ("bpf_loop", SOCKOPS, (5, 17)),
    ("bpf_xdp_load_bytes", XDP, (5, 18)),
    ("bpf_dynptr_data", SOCKOPS, (5, 19)),
    ("bpf_ktime_get_tai_ns", SOCKOPS, (6, 1)),
    ("bpf_cgrp_storage_delete", SOCKOPS, (6, 2)),
]
_NAMES = re.compile(r"(bpf_\w+)\)\([^;]*\) = \(void \*\) ?(\d+);")


@pytest.mark.parametrize(("name", "prog_type", "since"), SINCE)
def test_since_when(name: str, prog_type: int, since: tuple[int, int]) -> None:
    defined = Path("/usr/include/bpf/bpf_helper_defs.h").read_text(encoding="utf-8")
    numbers = {each: int(number) for each, number in _NAMES.findall(defined)}
    assert helper_since(prog_type, numbers[name]) == since


def test_a_helper_that_is_not_known_yet_has_no_version() -> None:
    assert helper_since(SOCKOPS, 9999) is None


def test_versions() -> None:
    assert version_of("6.12.117+deb13-cloud-amd64") == (6, 12)
    assert version_of("7.3-rc7-cloud") == (7, 3)
    assert version_of(".build/bzImage") == (0, 0)


def column(label: str, outcome: str) -> CellResult:
    about = About("heading", "title", "", "v4")
    result = Result(about, "a::b[v4]", ("a", 1), outcome, 0.1, "needs bpf_loop: Linux 5.17")
    return CellResult(label, GuestReport(GuestState.BOOTED, release=f"{label}.0-1-amd64"), (result,))


@pytest.mark.parametrize(
    ("verdicts", "judged"),
    [
        ({"5.10": "skipped", "6.1": "passed"}, ["skipped", "passed"]),
        ({"5.10": "passed", "6.1": "skipped"}, ["passed", "failed"]),
        ({"6.1": "skipped", "5.10": "failed", "6.12": "skipped"}, ["failed", "failed", "failed"]),
        ({"5.10": "skipped", "6.1": "skipped"}, ["skipped", "skipped"]),
    ],
)
def test_a_skip_on_a_newer_kernel_than_it_ran_on_is_a_failure(
    verdicts: dict[str, str], judged: list[str]
) -> None:
    columns = without_false_skips([column(label, outcome) for label, outcome in verdicts.items()])
    assert [each.results[0].outcome for each in columns] == judged
    changed = [
        each.results[0].details
        for each, was in zip(columns, verdicts.values(), strict=True)
        if each.results[0].outcome != was
    ]
    assert all("which is older" in words and "bpf_loop" in words for words in changed)
    assert replace(columns[0], results=()).passed is False
