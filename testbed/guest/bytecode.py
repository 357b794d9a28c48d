"""Python modules as a guest imports them: compiled here, and taken there without a look at the source."""

from __future__ import annotations

import importlib.util
import marshal
import struct
from pathlib import Path

from testbed.errors import MachineError

_UNCHECKED = struct.pack("<LQ", 0b01, 0)  # PEP 552: by hash, never checked
_HEADER = 16


def compiled(source: Path) -> bytes:
    """The ``.pyc`` of a module: Python's cached one where it is fresh, else compiled now.

    `MachineError` when the source cannot be compiled.
    """
    return importlib.util.MAGIC_NUMBER + _UNCHECKED + (_cached(source) or _compile(source))


def _cached(source: Path) -> bytes | None:
    try:
        data = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        status = source.stat()
    except OSError:
        return None
    fresh = struct.pack("<LLL", 0, int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    return data[_HEADER:] if data[:_HEADER] == importlib.util.MAGIC_NUMBER + fresh else None


def _compile(source: Path) -> bytes:
    try:
        return marshal.dumps(compile(source.read_bytes(), str(source), "exec", dont_inherit=True))
    except (SyntaxError, ValueError, OSError) as error:
        raise MachineError(f"compile {source} for guests", str(error)) from error
