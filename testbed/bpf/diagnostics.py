"""What a compiler or the verifier said, shortened to what a person needs first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CLANG_ERROR = re.compile(r"^(?P<where>\S.*?:\d+:\d+): (?:fatal )?error: (?P<text>.*)$")
_PLACE = re.compile(r"@ (?P<file>\S+):(?P<line>\d+)$")
_VERIFIER_END = re.compile(r"^processed \d+ insns|^verification time|^stack depth|^max_states")


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
    saved = os.dup(2)
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
    """``reason`` in one line, ``lines`` of the source or log around it."""

    reason: str
    lines: str = ""


def compiler_digest(output: str) -> Digest:
    """The first error of clang's output, with the source line and the caret under it."""
    lines = output.splitlines()
    for number, line in enumerate(lines):
        if match := _CLANG_ERROR.match(line):
            return Digest(match["text"], "\n".join((f"{match['where']}:", *lines[number + 1 : number + 3])))
    return Digest(lines[0] if lines else "the compiler said nothing")


def verifier_digest(log: str, sources: Sequence[Path] = ()) -> Digest:
    """The verifier's last word before its statistics, with the C line that it stood at.

    Since Linux 6.10 the log names the line (``; code @ file:line``). It is then quoted from
    ``sources``: bcc compiles a rewritten text, and the log's own quotation is of that one.
    """
    lines = [line for line in log.splitlines() if line.strip()]
    ends = [number for number, line in enumerate(lines) if _VERIFIER_END.match(line)]
    lines = lines[: ends[0]] if ends else lines
    if not lines:
        return Digest("the verifier said nothing")
    code = next((line for line in reversed(lines) if line.startswith(";")), "")
    return Digest(lines[-1].strip(), _quote(code.lstrip("; "), sources))


def _quote(code: str, sources: Sequence[Path]) -> str:
    match = _PLACE.search(code)
    if match is None:
        return code
    for source in sources:
        if source.name == match["file"]:
            lines = source.read_text(encoding="utf-8").splitlines()
            number = int(match["line"])
            around = range(max(number - 1, 1), min(number + 1, len(lines)) + 1)
            return "\n".join((f"{source}:{number}:", *(f"{n:>5} | {lines[n - 1]}" for n in around)))
    return code
