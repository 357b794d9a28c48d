"""What belongs to nobody: named namespaces, pins in bpffs, the machine's interfaces, mounts.

It cannot be told who made it. So it is compared only where no other process of the tests is at work: by a
process that runs them all, test by test; under xdist by the one that has started the workers, once.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from testbed.bill.picture import Thing

NOBODYS = {"mount", "named namespace", "interface", "pin"}
_PINS = "/sys/fs/bpf"
_DEBUG = {"maps.debug", "progs.debug"}  # files that the kernel has there itself


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 (a Path takes ten times as long)
    except OSError:  # there is none, or nothing that this user may see
        return []


def _pins() -> list[Thing]:
    found = []
    folders = [_PINS]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name in _DEBUG and not entry.is_dir(follow_symlinks=False):
                    continue
                found.append(Thing("pin", (entry.path,)))
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return found


@dataclass
class Machine:
    """Looks again and again; the table of mounts is read only when the kernel says that it has changed."""

    _fd: int = field(default_factory=lambda: os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC))
    _mounts: list[Thing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLPRI)
        self._poll.poll(0)
        self._read_mounts()

    def _read_mounts(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)
        text = b""
        while more := os.read(self._fd, 1 << 16):
            text += more
        lines = [line.split() for line in text.decode(errors="replace").splitlines()]
        self._mounts = [Thing("mount", (int(line[0]), line[4])) for line in lines]

    def take(self) -> frozenset[Thing]:
        """What there is now."""
        if self._poll.poll(0):
            self._read_mounts()
        return frozenset(
            [
                *self._mounts,
                *(Thing("named namespace", (name,)) for name in _names("/run/netns")),
                *(Thing("interface", (name,)) for name in _names("/sys/class/net")),
                *_pins(),
            ]
        )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def others_live() -> bool:
    """Whether another run of the testbed is at work: one that holds the lock of its record."""
    from testbed.kernel.ownership import REGISTRY

    inodes = set()
    for record in REGISTRY.glob("*.json"):
        with suppress(FileNotFoundError):  # its run has just ended
            inodes.add(record.stat().st_ino)
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    for words in (line.split() for line in locks if " FLOCK " in line):
        inode = int(words[-3].rpartition(":")[2])
        if inode in inodes and int(words[-4]) != os.getpid():
            return True
    return False
