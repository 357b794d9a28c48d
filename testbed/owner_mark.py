"""The mark of a run's cgroup: an extended attribute that says whose it is, and goes with the directory.

The look of a name proves nothing. A process is named by its number, the time of its start and its PID
namespace: no other process is ever the same (proc(5), ``starttime``; pid_namespaces(7)).
"""

from __future__ import annotations

import os
from pathlib import Path

_MARK = "trusted.sockops-testbed.owner"  # trusted: who may not make labs cannot set it (xattr(7))
_STARTED = 22 - 3  # the 22nd field of /proc/PID/stat, of those from the third on: the second may have spaces


def mark_as_own(cgroup: Path) -> None:
    """Makes a cgroup and all below this process's, and that of the processes that it forks."""
    pid = os.getpid()
    os.setxattr(cgroup, _MARK, f"{pid} {_started(pid)} {_pid_namespace()}".encode())


def owner_of(cgroup: int | Path) -> int:
    """The process that a cgroup's own mark names, by its number; 0 where there is no mark."""
    words = _read(cgroup)
    return int(words[0]) if words else 0


def owner_is_dead(cgroup: Path) -> bool:
    """Whether a cgroup is marked by a process that is known to have ended: one of this PID namespace."""
    words = _read(cgroup)
    return len(words) == 3 and words[2] == _pid_namespace() and _started(int(words[0])) != words[1]


def _read(cgroup: int | Path) -> list[str]:
    try:
        return os.getxattr(cgroup, _MARK).decode().split()
    except OSError:
        return []


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


def _started(pid: int) -> str:
    """In clock ticks since boot; empty where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[_STARTED]
