"""Whether C sources of somebody else take in nothing but themselves and the system's headers.

A person has agreed to compile them for the kernel; that their compilation reads other files of the machine
is no part of it. What they include is clang's own word, whatever macros, digraphs or line ends it is hidden
behind; and what an assembler statement of theirs takes in stands in the assembly that comes of them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from testbed.bpf.elf.clang import compile_command
from testbed.errors import MachineError, UsageError, errno_name

_SYSTEM = Path("/usr")
_TAKES_IN = re.compile(rb"\.\s*inc(?:bin|lude)\b", re.IGNORECASE)


def need_closed(what: str, source: Path, include: Sequence[Path], root: Path) -> None:
    """`UsageError` where a source includes a file that is neither in ``root`` nor in /usr.

    One that does not compile is none of this: its own error is told when it is compiled.
    """
    words = compile_command(source, include, ())
    for path in _dependencies(_run([*words[: words.index("-c")], "-M", str(source)])):
        if not any(path.is_relative_to(place) for place in (root.resolve(), _SYSTEM)):
            raise UsageError(what, f"it includes {str(path)!r}, a file elsewhere")
    if _TAKES_IN.search(_run([*words[: words.index("-c")], "-S", str(source), "-o", "-"])):
        raise UsageError(what, "its assembler statements take in a file")


def _run(words: Sequence[str]) -> bytes:
    try:
        return subprocess.run(words, capture_output=True, check=False).stdout
    except OSError as error:
        raise MachineError("find clang", errno_name(error.errno or 0), "apt-get install clang") from error


def _dependencies(rule: bytes) -> list[Path]:
    """The files of a make rule, ``x.o: x.c /usr/include/…``, resolved."""
    text = rule.decode(errors="replace").partition(":")[2].replace("\\\n", " ")
    return [Path(each.replace("\\ ", " ")).resolve() for each in re.findall(r"(?:\\ |\S)+", text)]
