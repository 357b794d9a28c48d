"""Nobody but the lab's own processes is to run the programs that are attached to it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.bpf.own_cgroups import is_descendant, name_of
from testbed.errors import UsageError
from testbed.kernel.cgroup import processes

if TYPE_CHECKING:
    from testbed.lab.lab import Lab

_NAMED = 3


def need_no_strangers(what: str, lab: Lab) -> None:
    """`UsageError` where a process is in the lab's cgroup that is not of this run, nor on one of its hosts.

    Those that this process has started are its own, and so is who was let onto a host: its network
    namespace is the host's. Somebody else's process would be subject to the programs from now on.
    """
    if not _others(lab):
        return
    hosts = set(_namespaces(lab))
    strangers = [pid for pid in processes(lab.cgroup_path) if not _belongs(pid, hosts)]
    if strangers:
        names = ", ".join(name_of(pid) for pid in strangers[:_NAMED])
        more = f" and {len(strangers) - _NAMED} more" if len(strangers) > _NAMED else ""
        raise UsageError(
            what,
            f"the lab's cgroup holds who does not belong there: {names}{more}",
            "move it to its own cgroup first: echo PID > …/cgroup.procs",
        )


def _others(lab: Lab) -> bool:
    """Whether anybody is there but the hosts' brokers: the look at it that costs little."""
    # the links of a cgroup's directory are two, and one for each cgroup in it
    if os.fstat(lab.cgroup_fd).st_nlink != 2 + len(lab.hosts) or _members(lab.cgroup_fd):
        return True
    return any(
        os.fstat(host.cgroup_fd).st_nlink != 2 or _members(host.cgroup_fd) != b"%d\n" % host.namespace.pid
        for host in lab.hosts.values()
    )


def _members(cgroup_fd: int) -> bytes:
    fd = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=cgroup_fd)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _namespaces(lab: Lab) -> Iterator[tuple[int, int]]:
    return (_identity(os.fstat(host.namespace.netns_fd)) for host in lab.hosts.values() if not host.is_gone)


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _belongs(pid: int, hosts: Iterable[tuple[int, int]]) -> bool:
    with suppress(OSError):  # it has ended
        return _identity(Path(f"/proc/{pid}/ns/net").stat()) in hosts or is_descendant(pid, os.getpid())
    return True
