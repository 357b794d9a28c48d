"""Which labs are up: a locked record of each, as of cgroups in `testbed.kernel.ownership`.

``/run/sockops-testbed/labs/NAME.json`` says who keeps a lab; the lock (flock) ends with the keeper,
however that ends. Beside it is the socket that the keeper answers on.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed.acquired import acquired
from testbed.errors import MachineError, TestbedError, UsageError, command, machine_error
from testbed.keeper.words import unknown, uptime
from testbed.kernel import ownership

LAB_VARIABLE = "TESTBED_LAB"
"""The environment variable that names the lab which commands are about."""


@dataclass(frozen=True)
class Record:
    """A lab that is up, or was: ``topology`` by name or file, ``since`` seconds of CLOCK_REALTIME."""

    name: str
    topology: str
    pid: int
    since: float
    command: str

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} keeps it since {clock} ({uptime(self.since)}), of {self.topology}"


def folder() -> Path:
    """Where the records and sockets are; root's alone."""
    return ownership.REGISTRY / "labs"


def socket_path(name: str) -> Path:
    return folder() / f"{name}.sock"


def _record_path(name: str) -> Path:
    return folder() / f"{name}.json"


def register(record: Record, stack: ExitStack) -> None:
    """Takes a name for this process until ``stack`` closes. `UsageError` says who has it already."""
    with_lock = _locked_nameless(record, stack)
    while True:
        try:
            # src_dir_fd makes this linkat(AT_SYMLINK_FOLLOW), which is what names a nameless file
            os.link(
                f"/proc/self/fd/{with_lock}",
                _record_path(record.name),
                src_dir_fd=with_lock,
                follow_symlinks=True,
            )
        except FileExistsError:
            owner = living(record.name)
            if owner is not None:
                raise taken(owner) from None
            continue  # it was a dead one's, which is reaped now
        acquired("record", _record_path(record.name))
        stack.callback(_remove, record.name)
        return


def taken(owner: Record) -> UsageError:
    """What is said to a second one of that name."""
    return UsageError(
        f"bring up the lab {owner.name}",
        f"there is one already: {owner}",
        f"{command(f'down {owner.name}')} ends it; --name gives this one another name",
    )


def _locked_nameless(record: Record, stack: ExitStack) -> int:
    """A record that nobody sees until it is whole and locked."""
    try:
        ownership.REGISTRY.mkdir(mode=0o755, exist_ok=True)
        folder().mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        acquired("descriptor", fd)
        stack.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(fd, json.dumps(asdict(record)).encode())
    except OSError as error:
        fix = "" if error.errno == errno.ENOSPC else "run as root, with a writable /run"
        raise machine_error(f"register the lab {record.name} in {folder()}", error, fix, folder()) from error
    return fd


def _remove(name: str) -> None:
    socket_path(name).unlink(missing_ok=True)
    _record_path(name).unlink(missing_ok=True)


def living(name: str) -> Record | None:
    """The record of a lab that is up, None where there is none. What a dead keeper left is removed."""
    found = _look(_record_path(name))
    return found[0] if found is not None and found[1] else None


def survey(*, remove: bool = True) -> tuple[list[Record], list[Record]]:
    """The labs that are up, by name, and those whose keeper is dead: what these left is removed."""
    found = [each for path in sorted(folder().glob("*.json")) if (each := _look(path, remove)) is not None]
    for path in folder().glob("*.sock") if remove else ():
        if not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)
    return [record for record, lives in found if lives], [record for record, lives in found if not lives]


def _look(path: Path, remove: bool = True) -> tuple[Record, bool] | None:
    """(the record, whether its keeper lives); None where there is none, or another has just removed it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        record = _parse(path, os.pread(fd, 65536, 0))
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return record, True
        if not remove:
            return record, False
        fcntl.flock(fd, fcntl.LOCK_EX)  # the only others are such as we
        if os.fstat(fd).st_nlink == 0:
            return None
        _remove(record.name)
        return record, False
    finally:
        os.close(fd)


def _parse(path: Path, text: bytes) -> Record:
    try:
        record = Record(**json.loads(text))
        is_ours = path.stem == record.name and isinstance(record.pid, int) and record.since > 0
    except (ValueError, TypeError):
        is_ours = False
    if not is_ours:
        raise MachineError(
            f"read {path}", "it is not a record of ours", f"look at it, then remove it: rm {path}"
        )
    return record


def choose(name: str = "", how: str = "--lab NAME") -> Record:
    """The lab of that name; else the one that ``TESTBED_LAB`` names, else the only one that is up.

    `UsageError` where that is none, or several: ``how`` says which one is meant.
    """
    up, _ = survey(remove=False)  # who removes it says so
    names = [record.name for record in up]
    told = "" if name else default_lab()
    if wanted := name or told:
        for record in up:
            if record.name == wanted:
                return record
        raise _not_up(wanted, names, f"{LAB_VARIABLE}={told} names it; say another: {how}" if told else "")
    if not up:
        raise UsageError("find the lab", "none is up", f"bring one up: {command('up pair')}")
    if len(up) > 1:
        raise UsageError("choose a lab", f"several are up: {', '.join(names)}", f"say which: {how}")
    return up[0]


def default_lab() -> str:
    """The lab that the environment names, as it does of who runs in one; empty where it names none."""
    return os.environ.get(LAB_VARIABLE, "")


def _not_up(name: str, up: list[str], why_it: str) -> UsageError:
    what = f"find the lab {name}"
    if not up:
        fix = f"bring one up: {command('up pair')}"
        return UsageError(what, "none is up", f"{fix} ({why_it})" if why_it else fix)
    if why_it:
        return UsageError(what, "none of that name is up", f"{why_it} (labs that are up: {', '.join(up)})")
    return unknown(what, "none of that name is up", name, up, "labs that are up")


class LabGone(TestbedError):
    """A lab that goes down, or has gone, while it is asked."""


def gone(name: str) -> LabGone:
    """What is said when a lab goes down while it is asked."""
    return LabGone(f"ask the lab {name}", "it is gone", f"{command('ls')} lists those that are up")
