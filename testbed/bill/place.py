"""The line that acquired something: the innermost one of a test or its fixtures, and that of the testbed."""

from __future__ import annotations

import linecache
import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType

_PACKAGE = f"{Path(__file__).resolve().parents[1]}/"
_SCENARIOS = f"{_PACKAGE}kmesh/scenarios/"
_OWN = (f"{_PACKAGE}bill/", f"{_PACKAGE}acquired.py", f"{_PACKAGE}pytest_bill.py")
_LIBRARIES = tuple(
    f"{folder}/"
    for folder in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        "/usr/lib/python3",
        str(Path(linecache.__file__).resolve().parent),
    }
)
_CALLERS = ("/_pytest/python.py", "/_pytest/fixtures.py")  # of tests and fixtures: no line of these is above
_DEPTH = 80  # frames


@dataclass(frozen=True)
class Line:
    """A line of a file, and the function that it is in."""

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        source = linecache.getline(self.file, self.number).strip()
        return f"{shown(self.file)}:{self.number} in {self.function}" + (f": {source}" if source else "")


@dataclass(frozen=True)
class Place:
    """``ours`` is the line of the test; ``by`` the testbed's own, where one was between."""

    ours: Line | None
    by: Line | None

    def __str__(self) -> str:
        if self.ours is None:
            return f"{shown(self.by.file)}:{self.by.number} in {self.by.function}" if self.by else ""
        return str(self.ours) + (f" (by {shown(self.by.file)}:{self.by.number})" if self.by else "")


def shown(file: str) -> str:
    """A path as a person reads it: from the current directory, where there is one and it is below that."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file


@lru_cache(maxsize=4096)
def _kind(file: str) -> str:
    """Whose a file is: a ``test``'s, the ``testbed``'s, ``pytest``'s; of another library, nobody's."""
    if file.startswith("<") or file.startswith(_OWN):
        return ""
    if file.endswith(_CALLERS):
        return "pytest"
    if file.startswith(_PACKAGE):
        return "test" if file.startswith(_SCENARIOS) else "testbed"
    if file.startswith(_LIBRARIES) or "/site-packages/" in file or "/dist-packages/" in file:
        return ""
    return "test"


class _Places:
    """Places that were asked for before, by the two frames' instructions: a loop asks for the same ones."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int], tuple[Place, CodeType | None, CodeType | None]] = {}

    def of(self, ours: FrameType | None, by: FrameType | None) -> Place:
        key = (
            id(ours.f_code) if ours is not None else 0,
            ours.f_lasti if ours is not None else 0,
            id(by.f_code) if by is not None else 0,
            by.f_lasti if by is not None else 0,
        )
        found = self._known.get(key)
        if found is None:
            made = Place(_line(ours), _line(by))
            # with the code, so that no other one gets its id
            found = self._known[key] = (made, ours and ours.f_code, by and by.f_code)
        return found[0]


_places = _Places()


def here(depth: int) -> Place | None:
    """Where the caller's caller, ``depth`` frames up, was called from. None where all is of libraries."""
    frame: FrameType | None = sys._getframe(depth)
    by: FrameType | None = None
    for _ in range(_DEPTH):
        if frame is None:
            break
        kind = _kind(frame.f_code.co_filename)
        if kind == "pytest":
            break
        if kind == "test":
            return _places.of(frame, by)
        if kind == "testbed" and by is None:
            by = frame
        frame = frame.f_back
    return _places.of(None, by) if by is not None else None


def _line(frame: FrameType | None) -> Line | None:
    if frame is None:
        return None
    return Line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)
