"""What is made of a compiler's and the verifier's output."""

from __future__ import annotations

import os
from pathlib import Path

from testbed.bpf.diagnostics import Captured, captured_stderr, compiler_digest, verifier_digest

CLANG = """\
bpf/x.c:1:1: warning: first a warning
bpf/x.c:7:2: error: use of undeclared identifier 'foo'
        foo = 1;
        ^
1 error generated.
"""
VERIFIER = """\
0: R1=ctx() R10=fp0
; u32 x = *p; @ x.c:2
0: (61) r1 = *(u32 *)(r2 +0)
R2 !read_ok
processed 1 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""


def test_the_first_error_with_its_line() -> None:
    digest = compiler_digest(CLANG)
    assert digest.reason == "use of undeclared identifier 'foo'"
    assert digest.lines.splitlines() == ["bpf/x.c:7:2:", "        foo = 1;", "        ^"]


def test_a_compiler_that_said_nothing() -> None:
    assert compiler_digest("").reason == "the compiler said nothing"


def test_the_reason_stands_before_the_statistics() -> None:
    assert verifier_digest(VERIFIER).reason == "R2 !read_ok"


def test_the_line_is_quoted_from_the_source(tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    source.write_text("one\ntwo\nthree\nfour\n", encoding="utf-8")
    lines = verifier_digest(VERIFIER, [source]).lines.splitlines()
    assert lines == [f"{source}:2:", "    1 | one", "    2 | two", "    3 | three"]


def test_without_a_place_the_log_itself_is_quoted() -> None:
    assert verifier_digest(VERIFIER.replace(" @ x.c:2", "")).lines == "u32 x = *p;"


def test_a_verifier_that_said_nothing() -> None:
    assert verifier_digest("\n").reason == "the verifier said nothing"


def test_descriptor_2_is_captured_and_given_back() -> None:
    before = os.fstat(2)
    said = Captured()
    with captured_stderr(said):
        os.write(2, b"from C\n")
    assert said.text == "from C\n"
    assert os.fstat(2) == before
