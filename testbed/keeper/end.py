"""Ending a keeper, and what dead ones left. Quick to import: `ls` and `down` start with it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack

from testbed.acquired import acquired
from testbed.deadlines import scaled
from testbed.errors import TestbedError
from testbed.keeper.registry import Record, living, survey
from testbed.kernel.cgroup import await_end, cgroup_root
from testbed.kernel.ownership import reap
from testbed.kernel.privileges import needing
from testbed.kernel.syscalls import pidfd_send_signal

END_DEADLINE_S = scaled(15.0)


def end_child(pid: int, name: str) -> None:
    """Ends a keeper that this process has forked, and waits for it; harmless where it has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        end(pidfd, name)
        os.waitpid(pid, 0)
    finally:
        os.close(pidfd)


def end(pidfd: int, name: str) -> None:
    """Ends a keeper, and with it its lab. One that does not end in time is killed."""
    try:
        pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        return
    if await_end(pidfd, time.monotonic() + END_DEADLINE_S):
        return
    pidfd_send_signal(pidfd, signal.SIGKILL)
    if not await_end(pidfd, time.monotonic() + END_DEADLINE_S):
        raise TestbedError(
            f"end the keeper of {name}",
            f"it lives on {END_DEADLINE_S:.0f} s after SIGKILL",
            "see /proc/PID/stack",
        )
    sweep()


def take_down(record: Record) -> None:
    """Takes a lab down; returns when it is gone."""
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    acquired("pidfd", pidfd)
    with ExitStack() as stack:
        stack.callback(os.close, pidfd)
        if living(record.name) == record:  # so the number is still its keeper's
            with needing(f"take the lab {record.name} down", "CAP_KILL"):
                end(pidfd, record.name)


def sweep() -> list[Record]:
    """Removes what dead keepers left: records, sockets, cgroups with who is in them. Returns the records."""
    _, dead = survey()
    if dead:
        with cgroup_root() as root:
            reap(root, strict=False)
    return dead
