"""What a compiler said, shortened to what a person needs first; and descriptor 2, where it says it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from testbed.acquired import acquired

_CLANG_ERROR = re.compile(r"^(?P<where>\S.*?:\d+:\d+): (?:fatal )?error: (?P<text>.*)$")


class Captured:
    """The text written to descriptor 2 while captured."""

    def __init__(self) -> None:
        self.text = ""


@contextmanager
def captured_stderr(captured: Captured) -> Iterator[None]:
    """Takes descriptor 2 itself: bcc's C++ and libbpf write there, not to ``sys.stderr``.

    The text is in ``captured`` afterwards, also when an exception passes.
    """
    sink = os.memfd_create("stderr", os.MFD_CLOEXEC)
    acquired("memory", sink)
    saved = os.dup(2)
    acquired("descriptor", saved)
    try:
        os.dup2(sink, 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            captured.text = os.pread(sink, os.fstat(sink).st_size, 0).decode(errors="backslashreplace")
    finally:
        os.close(saved)
        os.close(sink)


@dataclass(frozen=True)
class Digest:
    """``reason`` in one line, ``lines`` of the source around it."""

    reason: str
    lines: str = ""


def compiler_digest(output: str) -> Digest:
    """The first error of clang's output, with the source line and the caret under it."""
    lines = output.splitlines()
    for number, line in enumerate(lines):
        if match := _CLANG_ERROR.match(line):
            return Digest(match["text"], "\n".join((f"{match['where']}:", *lines[number + 1 : number + 3])))
    return Digest(lines[0] if lines else "the compiler said nothing")
