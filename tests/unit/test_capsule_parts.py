"""What a capsule is cleaned of, how a rate is told, and which runs failed alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.capsule.debug_paths import without_paths
from testbed.capsule.machine import kernel_line
from testbed.capsule.model import Scenario
from testbed.capsule.rate import Tally, heading_of, way_of, wilson
from testbed.capsule.replay import _in_family
from testbed.capsule.scrub import Scrubber
from testbed.errors import UsageError
from testbed.kmesh.oracle.compare import Violation
from testbed.kmesh.oracle.oracle import ContractViolation

HOME = "/home/secret-user"
TEXTS = [
    ("/work/project/bpf/sockops.c:12: error", "bpf/sockops.c:12: error"),
    (f"read {HOME}/my things/x.o: no", "read my things/x.o: no"),
    (f'File "{HOME}/mine/test_x.py", line 3', 'File "test_x.py", line 3'),
    ("/home/other-user/a.o and /home/other-user", "a.o and ~"),
    ("/srv/builds/jane/a.o", "a.o"),
    ("../../jane/mine/test_x.py:5: in f", "test_x.py:5: in f"),
    ("secret-user@build-host-7 build-host-7.example", "USER@HOST HOST.example"),
    ("the build-host-77, my-secret-user", "the build-host-77, my-secret-user"),
    ("10.77.0.1/24 via fd77::1/64 OUTBOUND/ESTABLISHED x/y/z", None),
    ("/usr/include/linux/bpf.h /proc/1/net /sys/fs/cgroup", None),
    ("client → server", None),
]


@pytest.mark.parametrize(("text", "clean"), TEXTS)
def test_what_is_taken_out_of_texts(text: str, clean: str | None) -> None:
    names = (("secret-user", "USER"), ("build-host-7", "HOST"))
    scrubber = Scrubber("/work/project", (HOME,), names)
    assert scrubber.text(text) == (text if clean is None else clean)
    assert scrubber.value({"a": [text, 1]}) == {"a": [text if clean is None else clean, 1]}


def test_paths_go_from_debug_information_and_nothing_else_does() -> None:
    elf = Path("/proc/self/exe").read_bytes()[:4096]
    assert without_paths(elf) == elf
    assert without_paths(b"no ELF file") == b"no ELF file"


RECORDS = [
    (b"6,1,5000000,-;TCP: a line\n SUBSYSTEM=x\n", "[    5.000000] TCP: a line"),
    (b"14,1,5000000,-;somebody's daemon wrote this\n", None),
    (b'5,1,5000000,-;audit: type=1400 acct="jane"\n', None),
    (b"6,1,5000000,-;systemd: Hostname set to <x>\n", None),
    (b"garbage", None),
]


@pytest.mark.parametrize(("record", "line"), RECORDS)
def test_the_kernels_own_lines_alone(record: bytes, line: str | None) -> None:
    assert kernel_line(record) == line


RATES = [
    ((17, 500), "17 of 500 failed (3.4 %, 95 % interval 2.1–5.4 %)"),
    ((0, 200), "0 of 200 failed (0.0 %, 95 % interval 0.0–1.9 %)"),
    ((1, 1), "1 of 1 failed (100.0 %, 95 % interval 20.7–100.0 %)"),
    ((0, 0), "nothing was run"),
]


@pytest.mark.parametrize(("counts", "words"), RATES)
def test_the_rate_in_words(counts: tuple[int, int], words: str) -> None:
    assert str(Tally(failed=counts[0], passed=counts[1] - counts[0])) == words


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_interval_holds_the_share(failures: int, others: int) -> None:
    low, high = wilson(failures, failures + others)
    assert 0 <= low <= high <= 1
    assert not failures + others or low <= failures / (failures + others) + 1e-9 <= high + 2e-9


def test_runs_that_fail_alike_are_one_way() -> None:
    tally = Tally()
    for port in (40001, 51234):
        tally.add(
            "failed", (), f"x.py:3: in f\nE  a.b.Expired: no record of 10.0.0.1:{port} after 1.2 ms\nE  more"
        )
    tally.add("failed", ("a record is missing",), "whatever")
    tally.add("skipped", (), "why")
    tally.add("passed", (), "")
    assert dict(tally.ways) == {"Expired: no record of 10.0.0.1:… after …": 2, "a record is missing": 1}
    assert (tally.runs, tally.failed, tally.skipped) == (4, 3, 1)
    assert way_of("") == "it says nothing"


ASSERTED = """testbed/kmesh/scenarios/test_4_close.py:35: in test_exactly_four
    assert [record.event for record in mesh.observed] == [*ESTABLISHED]
E   assert [(<Direction....te.CLOSE: 7>)] == [(<Direction....te.CLOSE: 7>)]
E
E     At index 2 diff: 1 != 2
E     Use -v to get more diff
E     ...Full output truncated (2 lines hidden), use '-vv' to show
callbacks that fired:"""
LINE = "test_4_close.py:35: assert [record.event for record in mesh.observed] == [*ESTABLISHED]"
WAYS = [
    (ASSERTED, f"testbed/kmesh/scenarios/{LINE}"),
    (ASSERTED.replace("E   assert", "E   AssertionError: assert"), f"testbed/kmesh/scenarios/{LINE}"),
    ("a.py:1: in f\n    g()\nb.py:22: in g\n    assert x\nE   assert 0", "b.py:22: assert x"),
    ("a.py:1: in f\nE   assert 1 == 2", "assert 1 == 2"),
    ("a.py:1: in f\n    assert x, y\nE   AssertionError: words\nE   assert 0", "AssertionError: words"),
    ("a.py:1: in f\n    g()\nE   OSError: EPERM", "OSError: EPERM"),
]


@pytest.mark.parametrize(("details", "way"), WAYS)
def test_an_assertion_is_told_by_its_line(details: str, way: str) -> None:
    assert way_of(details) == way


def test_pytests_own_hints_are_left_out() -> None:
    tally = Tally()
    tally.add("failed", (), ASSERTED)
    (example,) = tally.examples.values()
    assert "-v" not in example
    assert "E     At index 2 diff: 1 != 2\nE     ...Full output truncated (2 lines hidden)\n" in example


def test_a_violation_is_told_by_the_first_ones_words() -> None:
    violations = [Violation("close", None, f"gone {name}", ("close: not seen",)) for name in ("a", "b")]
    for told in (violations, violations[:1]):
        error = ContractViolation(told, "callbacks")
        assert heading_of("; ".join(error.kinds), str(error)) == "close: gone a"
    assert heading_of("a way", "x.py:1: in f\nE   more") == "a way"


FAMILIES = [
    ("a.py::t[v4]", "v4", "v6", "a.py::t[v6]"),
    ("a.py::t[x-mapped-client-y]", "mapped-client", "v4", "a.py::t[x-v4-y]"),
    ("a.py::t[x-mapped]", "mapped", "", "a.py::t[x-mapped]"),
]


@pytest.mark.parametrize(("nodeid", "own", "other", "wanted"), FAMILIES)
def test_another_family(nodeid: str, own: str, other: str, wanted: str) -> None:
    assert _in_family(Scenario(nodeid, family=own), other) == (wanted, other or own)
    with pytest.raises(UsageError, match="is not run in families"):
        _in_family(Scenario("a.py::t"), "v6")
