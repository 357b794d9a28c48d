"""Writes cpio archives in the "newc" format, of which the kernel unpacks its first root file system.

The format is in Documentation/driver-api/early-userspace/buffer-format.rst. It is not compressed:
under emulation unpacking costs more than reading. Archives can follow one another in one file.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_BLOCK = 512
"""Archives are padded to this, as the kernel looks for the next one at a multiple of four."""


@dataclass(frozen=True)
class Entry:
    """A directory (``data`` None), a file (bytes, or the path of one on this machine) or a symbolic link."""

    data: bytes | Path | None
    mode: int


@dataclass
class Archive:
    """What is to be in an archive, by absolute path in the guest; directories above come of themselves."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Adds an empty directory."""
        self._above(path)
        self.entries[path] = Entry(None, stat.S_IFDIR | mode)

    def file(self, path: str, data: bytes | Path, mode: int = 0o644) -> None:
        """Adds a file with these bytes, or with those of a file of this machine when it is written."""
        self._above(path)
        self.entries[path] = Entry(data, stat.S_IFREG | mode)

    def link(self, path: str, target: str) -> None:
        """Adds a symbolic link."""
        self._above(path)
        self.entries[path] = Entry(target.encode(), stat.S_IFLNK | 0o777)

    def update(self, files: Mapping[str, bytes]) -> None:
        """Adds files."""
        for path, data in files.items():
            self.file(path, data)

    def _above(self, path: str) -> None:
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            self.entries.setdefault(str(parent), Entry(None, stat.S_IFDIR | 0o755))

    def write(self, output: BinaryIO) -> None:
        """Writes the archive. Every file belongs to root and is of 1970: equal content is equal bytes.

        `OSError` when a file cannot be read or ``output`` not be written.
        """
        size = 0
        for number, (path, entry) in enumerate(self.entries.items(), start=1):
            data = entry.data.read_bytes() if isinstance(entry.data, Path) else entry.data or b""
            size += _write(output, number, path.lstrip("/"), entry.mode, data)
        size += _write(output, 0, _TRAILER, 0, b"")
        output.write(bytes(-size % _BLOCK))


def _write(output: BinaryIO, inode: int, name: str, mode: int, data: bytes) -> int:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = _MAGIC + b"".join(b"%08X" % value for value in fields) + encoded
    head += bytes(-len(head) % 4)
    output.write(head)
    output.write(data)
    padding = -len(data) % 4
    output.write(bytes(padding))
    return len(head) + len(data) + padding
