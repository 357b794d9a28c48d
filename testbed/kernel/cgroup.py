"""cgroup v2: where it is, and directories of it that are made, emptied and removed."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.acquired import acquired
from testbed.deadlines import scaled
from testbed.errors import MachineError, command, errno_name
from testbed.kernel.privileges import WHAT_IS_NEEDED, needing, refusal
from testbed.kernel.syscalls import mount_detached, pidfd_send_signal

REMOVE_DEADLINE_S = scaled(10.0)
_RECHECK_MS = 10
_REMOVED = {errno.ENOENT, errno.ENODEV}  # of a file in a directory that somebody has removed meanwhile


@dataclass(frozen=True)
class CgroupRoot:
    """The root of the cgroup v2 tree: ``path`` to use, ``where`` to tell a person (``at /sys/…``)."""

    path: Path
    where: str


def _mounted() -> list[Path]:
    """Mount points of cgroup2 that are writable, from /proc/self/mountinfo (proc(5))."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, filesystem = line.partition(" - ")
        fields = mount.split()
        if filesystem.split()[0] == "cgroup2" and fields[3] == "/" and "rw" in fields[5].split(","):
            found.append(Path(fields[4].replace("\\040", " ")))
    return found


@contextmanager
def cgroup_root() -> Iterator[CgroupRoot]:
    """Finds cgroup v2 wherever it is mounted (unified or hybrid), or mounts it privately.

    The private mount (Linux 5.2) is in no mount table: a descriptor owns it. `MachineError` when
    there is neither.
    """
    for path in _mounted():
        if os.access(path, os.W_OK, effective_ids=True):
            yield CgroupRoot(path, f"at {path}")
            return
    try:
        mount = mount_detached("cgroup2")
    except OSError as error:
        raise MachineError(
            "find cgroup v2",
            "it is mounted nowhere, and mounting it privately fails with "
            + refusal(error.errno or 0, "CAP_SYS_ADMIN"),
            "run as root on Linux 5.10 or later, with CONFIG_CGROUPS=y and CONFIG_CGROUP_BPF=y",
        ) from error
    acquired("mount", mount)
    try:
        yield CgroupRoot(Path(f"/proc/self/fd/{mount}"), "mounted privately")
    finally:
        os.close(mount)


def make_cgroup(path: Path, stack: ExitStack) -> int:
    """Makes a cgroup directory and returns a descriptor of it; both go when ``stack`` closes."""
    stack.callback(remove_tree, path)  # before it is there: an interrupt can come behind any line
    try:
        os.mkdir(path)  # noqa: PTH102 (as all that a lab does: a Path's own way takes several times as long)
    except OSError as error:
        why = refusal(error.errno or 0, "CAP_DAC_OVERRIDE")
        fix = WHAT_IS_NEEDED if "CAP_DAC_OVERRIDE" in why else command("doctor")
        shown = path.name if path.is_relative_to("/proc/self/fd") else path  # a mount that nobody else sees
        raise MachineError(f"make the cgroup {shown}", why, fix) from error
    acquired("cgroup", path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    acquired("descriptor", fd)
    stack.callback(os.close, fd)
    return fd


def remove_tree(path: Path) -> list[int]:
    """Ends every process in a cgroup and below, then removes the directories, children first.

    Returns the processes that it found. What is gone already is no error.
    """
    try:
        os.rmdir(path)  # noqa: PTH106 (as above)
    except FileNotFoundError:
        return []
    except OSError:  # EBUSY: there is something in it, or below
        pids = _end_processes(path)
    else:
        return []
    deadline = time.monotonic() + REMOVE_DEADLINE_S
    for directory, _, _ in os.walk(path, topdown=False):
        _remove_directory(Path(directory), deadline)
    return pids


def _remove_directory(path: Path, deadline: float) -> None:
    """A process that has ended can be out of ``cgroup.procs`` and still keep the directory, for an
    instant (Linux 6.19): ``cgroup.events`` tells when it no longer does.
    """
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise MachineError(
                    f"remove the cgroup {path}",
                    f"{errno_name(error.errno or 0)}; in it: {processes(path) or 'no process'}",
                    f"when that is gone: {command('gc')}",
                ) from error
            _await_event(path)
        else:
            return


def _await_event(path: Path) -> None:
    try:
        with (path / "cgroup.events").open("rb", buffering=0) as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            events.read()
            poll.poll(_RECHECK_MS)  # a change between the removal and the read has no event
    except OSError as error:
        if error.errno not in _REMOVED:
            raise


def processes(path: Path) -> list[int]:
    """The processes in a cgroup and below."""
    found: list[int] = []
    for directory, _, _ in os.walk(path):
        try:
            found += map(int, Path(directory, "cgroup.procs").read_text(encoding="ascii").split())
        except OSError as error:
            if error.errno not in _REMOVED:
                raise
    return found


def await_end(pidfd: int, deadline: float) -> bool:
    """Waits until a process has ended; False when ``deadline`` (``time.monotonic``) comes first.

    Not by ``cgroup.events``: the kernel holds its notifications back for up to 10 ms.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(deadline - time.monotonic(), 0) * 1000))


def _end_processes(path: Path) -> list[int]:
    deadline = time.monotonic() + REMOVE_DEADLINE_S
    ended: list[int] = []
    while pids := processes(path):  # again: a fork may have come in between
        with ExitStack() as stack:
            pidfds = [pidfd for pid in pids if (pidfd := _open_process(pid, stack)) is not None]
            with needing(f"end what is in the cgroup {path}", "CAP_KILL"):
                for pidfd in pidfds:
                    _kill(pidfd)
            if not all(await_end(pidfd, deadline) for pidfd in pidfds):
                raise MachineError(
                    f"remove the cgroup {path}",
                    f"processes are still in it after {REMOVE_DEADLINE_S:.0f} s: {processes(path)}",
                    "see what they wait for in /proc/PID/stack",
                )
        ended += pids
    return ended


def _open_process(pid: int, stack: ExitStack) -> int | None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    acquired("pidfd", pidfd)
    stack.callback(os.close, pidfd)
    return pidfd


def _kill(pidfd: int) -> None:
    with suppress(ProcessLookupError):
        pidfd_send_signal(pidfd, signal.SIGKILL)
