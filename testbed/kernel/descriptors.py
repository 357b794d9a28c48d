"""Room for descriptors: a large lab has more of them than a process may open at first."""

from __future__ import annotations

import errno
import os
import resource

from testbed.errors import MachineError, errno_name, remedy


def make_room(what: str, count: int) -> None:
    """Raises this process's limit of open files as far as it may, where ``count`` more would not fit.

    `MachineError` where the hard limit (RLIMIT_NOFILE) has no room for as many; ``what`` says in words
    what they are for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _lowest_free(soft) + count
    if _fits(needed, soft):
        return
    if not _fits(needed, hard):
        why = f"{errno_name(errno.EMFILE)}: that is {count} open files more, of at most {hard}"
        raise MachineError(what, why, remedy(errno.EMFILE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _lowest_free(limit: int) -> int:
    """The number that the next descriptor gets: hardly one above it is taken. Else ``limit``."""
    try:
        fd = os.eventfd(0)
    except OSError:
        return limit
    os.close(fd)
    return fd


def _fits(needed: int, limit: int) -> bool:
    return limit == resource.RLIM_INFINITY or needed <= limit
