"""Descriptors that a process has from outside, for a child that is to outlive it without them."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

Stream = tuple[int, int]
"""(device, inode): what a descriptor stands for, whatever its number."""


def streams() -> frozenset[Stream]:
    """Pipes, sockets, terminals and files that are open now. Directories and BPF objects are none."""
    return frozenset(stream for fd in _descriptors() if (stream := _stream(fd)) is not None)


def let_go(of: Collection[Stream]) -> None:
    """Puts /dev/null in the place of each descriptor that stands for one of them: no number gets free."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in _descriptors():
        if fd != nowhere and _stream(fd) in of:
            os.dup2(nowhere, fd, inheritable=os.get_inheritable(fd))
    os.close(nowhere)


def _descriptors() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


def _stream(fd: int) -> Stream | None:
    try:
        status = os.fstat(fd)
    except OSError:  # EBADF: the one that the directory was read by
        return None
    kind = stat.S_IFMT(status.st_mode)
    if kind not in {stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFREG}:
        return None
    return status.st_dev, status.st_ino
