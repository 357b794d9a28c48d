"""C sources as texts in memory: what includes what, and one text for the compiler with a change in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from testbed.errors import UsageError, errno_name

_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
_PRAGMA_ONCE = re.compile(r"^\s*#\s*pragma\s+once\b")
_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*', re.DOTALL)


@dataclass(frozen=True)
class Sources:
    """``programs`` are the ``.c`` files, ``texts`` these and their headers: by path from ``root``.

    Without comments: a change in one is none, and a line that has one can be changed.
    """

    root: Path
    programs: tuple[str, ...]
    texts: Mapping[str, str]

    def reached_from(self, program: str) -> frozenset[str]:
        """Every file that one program is made of, itself among them."""
        found: set[str] = set()
        self._follow(program, found)
        return frozenset(found)

    def _follow(self, name: str, found: set[str]) -> None:
        found.add(name)
        for line in self.texts[name].splitlines():
            if (match := _INCLUDE.match(line)) and (there := self.find(match[1], name)) not in {None, *found}:
                self._follow(str(there), found)

    def find(self, header: str, beside: str) -> str | None:
        """The file that an ``#include "…"`` means, None for one that is not among these."""
        for folder in (PurePosixPath(beside).parent, PurePosixPath("include")):
            if str(folder / header) in self.texts:
                return str(folder / header)
        return None

    def expanded(self, program: str, changed: Mapping[str, str]) -> str:
        """One text for the compiler, that names the real files and lines."""
        seen: set[str] = set()
        return "\n".join(self._lines(program, {**self.texts, **changed}, seen)) + "\n"

    def _lines(self, name: str, texts: Mapping[str, str], seen: set[str]) -> Iterator[str]:
        text = texts[name]
        yield f'#line 1 "{self.root / name}"'
        for number, line in enumerate(text.split("\n"), 1):
            if _PRAGMA_ONCE.match(line):
                seen.add(name)
                yield ""
            elif (match := _INCLUDE.match(line)) and (there := self.find(match[1], name)):
                if there not in seen:
                    yield from self._lines(there, texts, seen)
                    yield f'#line {number + 1} "{self.root / name}"'
                else:
                    yield ""
            else:
                yield line


def read_sources(root: Path, programs: Sequence[Path]) -> Sources:
    """Reads programs and every header in ``root`` and its ``include``. `UsageError` for what is no text."""
    headers = sorted((*root.glob("*.h"), *(root / "include").glob("*.h")))
    texts = {}
    for path in (*programs, *headers):
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"read {path}", errno_name(error.errno or 0)) from error
        except UnicodeDecodeError as error:
            raise UsageError(f"read {path}", "it is no UTF-8 text") from error
        texts[path.relative_to(root).as_posix()] = without_comments(text)
    return Sources(root, tuple(path.relative_to(root).as_posix() for path in programs), texts)


def without_comments(text: str) -> str:
    """The same lines with the same code."""
    kept = _COMMENT.sub(lambda match: match[0] if match[0][0] == '"' else "\n" * match[0].count("\n"), text)
    return "\n".join(line.rstrip() for line in kept.split("\n"))
