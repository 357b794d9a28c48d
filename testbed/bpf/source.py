"""One text out of C sources and the project's own headers.

bcc rewrites map calls only in its main text; in an included header they compile and then fail at
load. So ``#include "…"`` is expanded here, each header once (as ``#pragma once`` asks), with
``#line`` so that every error names the real file. ``#include <…>`` is left to the compiler.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from testbed.errors import ProgramError

_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
_PRAGMA_ONCE = re.compile(r"^\s*#\s*pragma\s+once\b")


def expand(sources: Sequence[Path], include: Sequence[Path]) -> str:
    """Returns the text of all ``sources``, in order. `ProgramError` names a file that is missing."""
    seen: set[Path] = set()
    return "\n".join(line for source in sources for line in _lines(source, tuple(include), seen)) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProgramError(f"read {path}", str(error)) from error


def _lines(path: Path, include: tuple[Path, ...], seen: set[Path]) -> Iterator[str]:
    seen.add(path.resolve())
    yield f'#line 1 "{path}"'
    for number, line in enumerate(_read(path).splitlines(), 1):
        if _PRAGMA_ONCE.match(line):
            yield ""
        elif match := _INCLUDE.match(line):
            header = _find(match[1], path, number, include)
            if header.resolve() in seen:
                yield ""
            else:
                yield from _lines(header, include, seen)
                yield f'#line {number + 1} "{path}"'
        else:
            yield line
            if line == "{":
                # bcc puts a line of its own before each function; within, count on from here
                yield f'#line {number + 1} "{path}"'


def _find(name: str, path: Path, number: int, include: tuple[Path, ...]) -> Path:
    for directory in (path.parent, *include):
        if (directory / name).is_file():
            return directory / name
    looked = ", ".join(str(directory) for directory in (path.parent, *include))
    raise ProgramError(f"{path}:{number}: include {name}", f"no such file in {looked}")
