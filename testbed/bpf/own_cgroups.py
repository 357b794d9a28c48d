"""Programs are attached to cgroups of this run alone: whoever else was in one would run them too.

A run marks its cgroup (`testbed.owner_mark`). The look of a name proves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from testbed.errors import UsageError
from testbed.owner_mark import owner_of

_NAMED = 3


def need_own(cgroup_fd: int, what: str) -> None:
    """`UsageError` where a cgroup is not below one of this run: it says who is in it.

    What is no directory at all is left to the kernel to refuse.
    """
    owner = _owner(cgroup_fd)
    if owner is None or (owner > 0 and _is_of_this_run(owner)):
        return
    why = f"it is a lab of another run (process {owner})" if owner else "it is no cgroup of this run's labs"
    raise UsageError(
        f"{what} to {Path(f'/proc/self/fd/{cgroup_fd}').readlink()}",
        why + _who_is_in(cgroup_fd),
        "attach to a lab's cgroup_fd, or to that of one of its hosts",
    )


def _owner(cgroup_fd: int) -> int | None:
    """The process that the nearest mark names; 0 where nobody has marked it, None for no directory."""
    fd = cgroup_fd
    try:
        while True:
            if owner := owner_of(fd):
                return owner
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            is_root = os.path.samestat(os.fstat(fd), os.fstat(above))
            if fd != cgroup_fd:
                os.close(fd)
            fd = above
            if is_root:
                return 0
    except NotADirectoryError:
        return None
    finally:
        if fd != cgroup_fd:
            os.close(fd)


def is_descendant(pid: int, ancestor: int) -> bool:
    """Whether a process comes from another, or is it."""
    while pid > 1 and pid != ancestor:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return pid == ancestor


def _is_of_this_run(owner: int) -> bool:
    return is_descendant(os.getpid(), owner)


def _who_is_in(cgroup_fd: int) -> str:
    """``; in it: 4711 (sshd) and 12 more processes``; empty for nobody, or for what is no cgroup."""
    try:
        fd = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=cgroup_fd)
    except OSError:
        return ""
    with os.fdopen(fd, encoding="ascii") as file:
        pids = [int(line) for line in file]
    if not pids:
        return ""
    more = f" and {len(pids) - _NAMED} more" if len(pids) > _NAMED else ""
    return f"; in it: {', '.join(_named(pids))}{more}"


def _named(pids: list[int]) -> Iterator[str]:
    for pid in pids[:_NAMED]:
        yield name_of(pid)


def name_of(pid: int) -> str:
    """``4711 (sshd)``, for a message."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({name if name.isprintable() else ascii(name)})"
