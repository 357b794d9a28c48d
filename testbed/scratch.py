"""Directories for files that must have a name for a while; what killed runs leave of them is removed later.

All lie in ``sockops-testbed-UID``, which only that user may enter, where temporary files are. Each is locked
(flock) by the process that made it. The lock ends with the process, however that ends; `tidy_scratch` removes
what nobody has locked. The one that they lie in goes with the last of them.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.acquired import acquired
from testbed.ending import undisturbed
from testbed.errors import MachineError, machine_error

_ROOM = 1 << 20  # bytes: more than the objects of a program set
_FIX = "set TMPDIR to a directory that can be written to"


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A new directory of this process alone, until the block or the process ends. `MachineError` without one.

    What is forked meanwhile and goes on after this process calls `let_go_of_scratch`.
    """
    parent = _parent(_place())
    folder = parent / f"{purpose}-{os.getpid()}-{os.urandom(4).hex()}"
    with ExitStack() as lock, _gone_at_end(folder):  # the lock is given back after it is gone
        try:
            with _locked(parent, make=True):  # what is being made is not removed before it is locked
                folder.mkdir(mode=0o700)
                acquired("folder", folder)
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                lock.callback(os.close, fd)
                acquired("descriptor", fd)
                fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            raise machine_error(f"make a temporary directory in {parent}", error, _FIX) from error
        yield folder


def tidy_scratch() -> list[Path]:
    """Removes the directories whose processes are gone, wherever this process's own would be; returns them.

    What cannot be removed, or is another user's, stays.
    """
    return [folder for place in _places() for folder in _tidied(_parent(place))]


def let_go_of_scratch() -> None:
    """For a forked child that outlives its parent: the locks that it has from there would do so with it."""
    parents = {str(_parent(place)) for place in _places()}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 (their numbers alone)
        with suppress(OSError):  # the one that this directory was read by
            if os.path.dirname(os.readlink(f"/proc/self/fd/{name}")) in parents:  # noqa: PTH115, PTH120
                os.close(int(name))


def _places() -> list[Path]:
    """Where temporary files can be, first choice first.

    `tempfile.gettempdir` is not asked: it tries by a file, which a run leaves there that is killed then.
    """
    named = os.environ.get("TMPDIR")
    choice = (named, "/tmp", "/var/tmp")  # noqa: S108 (what is made there is private)
    return list(dict.fromkeys(Path(os.path.realpath(each)) for each in choice if each))


def _place() -> Path:
    places = _places()
    return next(filter(_has_room, places), places[0])


def _has_room(place: Path) -> bool:
    try:
        found = os.statvfs(place)
    except OSError:
        return False
    return os.access(place, os.W_OK | os.X_OK) and found.f_bavail * found.f_frsize >= _ROOM


def _parent(place: Path) -> Path:
    return place / f"sockops-testbed-{os.geteuid()}"


@contextmanager
def _locked(parent: Path, *, make: bool) -> Iterator[None]:
    """Holds the lock of the directory that all lie in, which is there as long as this is held.

    `OSError` when it cannot be had, `MachineError` when others can have to do with it.
    """
    with ExitStack() as stack:
        is_there, gone = False, [FileNotFoundError] if make else []
        while not is_there:
            if make:
                with suppress(FileExistsError):
                    parent.mkdir(mode=0o700)
                    acquired("kept file", parent)  # it goes with the last one that lies in it
            with suppress(*gone):  # who had the lock has just removed it
                fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                acquired("descriptor", fd)
                _demand_private(fd, parent)
                fcntl.flock(fd, fcntl.LOCK_EX)
                is_there = os.path.samestat(os.fstat(fd), os.lstat(parent))
        yield


def _demand_private(fd: int, parent: Path) -> None:
    found = os.fstat(fd)
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid() or mode & 0o077:
        raise MachineError(
            f"use the directory {parent}",
            f"it is there already, of user {found.st_uid} and mode {mode:04o}, and should be private",
            f"look at it, then remove it; or {_FIX}",
        )


def _tidied(parent: Path) -> list[Path]:
    removed: list[Path] = []
    if not parent.is_dir():
        return removed
    with (
        suppress(OSError, MachineError),
        _locked(parent, make=False),
    ):  # another has removed it, or it is not ours
        for folder in sorted(parent.iterdir()):
            if folder.is_dir() and not _has_owner(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed += [] if folder.exists() else [folder]
        parent.rmdir()  # `OSError` when somebody is at work
    return removed


def _has_owner(folder: Path) -> bool:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextmanager
def _gone_at_end(folder: Path) -> Iterator[None]:
    """At the latest when the interpreter ends: an interrupt can come between any two lines."""
    removal = _Removal(folder, os.getpid())
    atexit.register(removal)
    try:
        yield
    finally:
        removal()
        if not folder.exists():
            atexit.unregister(removal)


@dataclass(frozen=True)
class _Removal:
    """Removes a directory, in the process that has made it."""

    folder: Path
    maker: int

    def __call__(self) -> None:
        if os.getpid() != self.maker:
            return
        with undisturbed():
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError, MachineError), _locked(self.folder.parent, make=False):
                self.folder.parent.rmdir()  # `OSError` while there are others
