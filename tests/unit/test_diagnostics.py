"""What is made of a compiler's and the verifier's output."""

from __future__ import annotations

import os

from testbed.bpf.diagnostics import Captured, captured_stderr, compiler_digest

CLANG = """\
bpf/x.c:1:1: warning: first a warning
bpf/x.c:7:2: error: use of undeclared identifier 'foo'
        foo = 1;
        ^
1 error generated.
"""


def test_the_first_error_with_its_line() -> None:
    digest = compiler_digest(CLANG)
    assert digest.reason == "use of undeclared identifier 'foo'"
    assert digest.lines.splitlines() == ["bpf/x.c:7:2:", "        foo = 1;", "        ^"]


def test_a_compiler_that_said_nothing() -> None:
    assert compiler_digest("").reason == "the compiler said nothing"


def test_descriptor_2_is_captured_and_given_back() -> None:
    before = os.fstat(2)
    said = Captured()
    with captured_stderr(said):
        os.write(2, b"from C\n")
    assert said.text == "from C\n"
    assert os.fstat(2) == before
