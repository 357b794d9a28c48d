"""What this process holds: descriptors, threads, child processes. Taken before and after each test.

It costs some 50 µs with 30 descriptors: what a descriptor stands for is read (`testbed.bill.words`) only of
those that make a difference.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple


class Thing(NamedTuple):
    """Something that is held: its kind, and what it is known by there. Equal things are the same one."""

    kind: str
    key: tuple[int | str, ...]


@dataclass(frozen=True)
class Picture:
    """All that is held at one moment."""

    things: frozenset[Thing]


@cache
def _anonymous() -> tuple[int, int]:
    """(device, inode) that most kinds of descriptors without a file share: epoll, BPF objects, pidfds."""
    with select.epoll() as poll:
        status = os.fstat(poll.fileno())
    return status.st_dev, status.st_ino


def descriptors(numbers: dict[int, int]) -> list[Thing]:
    """By number and (device, inode). ``numbers`` tells those without a file apart that were made anew."""
    found = []
    anonymous = _anonymous()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 (a Path takes ten times as long)
        fd = int(name)
        try:
            status = os.fstat(fd)
        except OSError:  # EBADF: the one that the directory was read by
            continue
        key = (fd, status.st_dev, status.st_ino)
        found.append(Thing("descriptor", (*key, numbers.get(fd, 0)) if key[1:] == anonymous else (*key, 0)))
    return found


def threads() -> list[Thing]:
    """By the kernel's number (`threading.Thread.native_id`)."""
    return [Thing("thread", (int(name),)) for name in os.listdir("/proc/self/task")]  # noqa: PTH208 (as above)


def children(tasks: list[Thing]) -> list[Thing]:
    """Processes whose parent is a thread of this one, the dead that nobody has waited for among them.

    None where the kernel has no CONFIG_PROC_CHILDREN.
    """
    found = []
    for task in tasks:
        try:
            with open(f"/proc/self/task/{task.key[0]}/children", "rb", buffering=0) as file:  # noqa: PTH123
                found += [Thing("process", (int(pid),)) for pid in file.read().split()]
        except OSError:
            continue  # the thread has ended meanwhile
    return found


def take(numbers: dict[int, int]) -> Picture:
    """What there is now. ``numbers``: of descriptors that the trace has heard of, which time it was."""
    tasks = threads()
    namespace = Thing("own namespace", (os.readlink("/proc/self/ns/net"),))  # noqa: PTH115 (as above)
    return Picture(frozenset([*descriptors(numbers), *tasks, *children(tasks), namespace]))
