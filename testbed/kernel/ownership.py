"""What no descriptor can own: cgroup directories. They carry an owner lock and outlive only its holder.

Before a run makes its cgroup it links a locked record of it into ``/run/sockops-testbed``. The
lock (flock) ends with the process, however it ends. `reap` removes what a record names when, and
only when, it gets that record's lock: never by the look of a name.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.acquired import acquired
from testbed.errors import MachineError, TestbedError, machine_error
from testbed.kernel.cgroup import CgroupRoot, make_cgroup, processes, remove_tree
from testbed.owner_mark import owner_is_dead

REGISTRY = Path("/run/sockops-testbed")
_CGROUP_NAME = re.compile(r"sockops-testbed-[0-9a-f]{16}")


@dataclass(frozen=True)
class Reaped:
    """A dead run's cgroup that was removed, and the processes that were still in it."""

    cgroup: str
    pids: tuple[int, ...]


@contextmanager
def owned_cgroup(root: CgroupRoot, registry: Path | None = None) -> Iterator[Path]:
    """Makes a top-level cgroup for this process alone; removes it at the end. Yields its path."""
    with ExitStack() as stack:
        yield own_cgroup(root, stack, registry)


def own_cgroup(root: CgroupRoot, stack: ExitStack, registry: Path | None = None) -> Path:
    """The same until ``stack`` closes; one that is dropped unclosed leaves the cgroup to a forked child."""
    path = root.path / f"sockops-testbed-{secrets.token_hex(8)}"
    record = (registry or REGISTRY) / f"{path.name}.json"
    at_exit = _AtExit(path, record)
    atexit.register(at_exit)
    stack.callback(at_exit.unless_undone)
    _register(path, record, stack)
    make_cgroup(path, stack)
    return path


def disown(cgroup: Path, registry: Path | None = None) -> None:
    """Leaves the cgroup to a forked child: however this process ends, it is not undone here."""
    atexit.unregister(_AtExit(cgroup, (registry or REGISTRY) / f"{cgroup.name}.json"))


@dataclass(frozen=True)
class _AtExit:
    """Undoes it when the interpreter ends, where an interrupt came between the lines of who was to do it."""

    cgroup: Path
    record: Path

    def __call__(self) -> None:
        with suppress(TestbedError, OSError):  # the next run tries again, and tells
            remove_tree(self.cgroup)
            _forget(self.record, self.cgroup)

    def unless_undone(self) -> None:
        if not self.cgroup.exists() and not self.record.exists():
            atexit.unregister(self)


def _register(cgroup: Path, record: Path, stack: ExitStack) -> None:
    name, registry = cgroup.name, record.parent
    try:
        registry.mkdir(mode=0o755, exist_ok=True)
        # Nameless until it is locked and complete: nobody ever sees half a record.
        fd = os.open(registry, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644)
        acquired("descriptor", fd)
        stack.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(fd, json.dumps({"cgroup": name, "pid": os.getpid()}).encode())
        stack.callback(_forget, record, cgroup)  # before it is there: an interrupt can come behind any line
        # src_dir_fd makes this linkat(AT_SYMLINK_FOLLOW), which is what names a nameless file
        os.link(f"/proc/self/fd/{fd}", record, src_dir_fd=fd, follow_symlinks=True)
        acquired("record", record)
    except OSError as error:
        fix = "" if error.errno == errno.ENOSPC else "run as root, with a writable /run"
        raise machine_error(f"register the cgroup {name} in {registry}", error, fix, registry) from error


def _forget(record: Path, cgroup: Path) -> None:
    if not cgroup.exists():  # else somebody has still to reap it
        record.unlink(missing_ok=True)


def reap(root: CgroupRoot, registry: Path | None = None, *, strict: bool = True) -> list[Reaped]:
    """Removes what dead runs left; what a living one owns is not touched.

    What cannot be removed does not keep the rest. It is raised in the end (`MachineError`), unless
    ``strict`` is false: a new run has no need of it.
    """
    reaped = []
    problems: list[MachineError] = []
    for record in sorted((registry or REGISTRY).glob("*.json")):
        try:
            fd = os.open(record, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its owner ended in this moment
        acquired("descriptor", fd)
        try:
            if found := _reap_record(root, record, fd):
                reaped.append(found)
        except MachineError as error:
            problems.append(error)
        finally:
            os.close(fd)
    if registry is None:
        reaped += _reap_unrecorded(root, problems)
    if problems and strict:
        raise problems[0]
    return reaped


def _reap_unrecorded(root: CgroupRoot, problems: list[MachineError]) -> list[Reaped]:
    """Of runs whose records went with their ``/run``, as a container's does: by the mark of the cgroup.

    Whose owner is known to be dead, and nobody is in: of a lab that was handed on, its hosts are.
    """
    reaped = []
    for path in root.path.glob("sockops-testbed-*"):
        try:
            is_recorded = (REGISTRY / f"{path.name}.json").exists()
            if not is_recorded and owner_is_dead(path) and not processes(path):
                reaped.append(Reaped(path.name, tuple(remove_tree(path))))
        except MachineError as error:
            problems.append(error)
    return reaped


def _reap_record(root: CgroupRoot, record: Path, fd: int) -> Reaped | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None  # its owner lives
    if os.fstat(fd).st_nlink == 0:
        return None  # another reaper was quicker
    name = _cgroup_name(os.read(fd, 4096))
    if name is None:
        raise MachineError(
            f"read {record}", "it is not a record of ours", f"look at it, then remove it: rm {record}"
        )
    pids = remove_tree(root.path / name)
    record.unlink(missing_ok=True)
    return Reaped(name, tuple(pids))


def _cgroup_name(text: bytes) -> str | None:
    try:
        name = json.loads(text)["cgroup"]
    except (ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) and _CGROUP_NAME.fullmatch(name) else None
