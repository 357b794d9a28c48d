"""Where runs are kept: the newest ones, each in a folder of its own."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import platformdirs

from testbed.acquired import acquired
from testbed.errors import MachineError, machine_error, remedy

KEPT = 20
"""As many runs are kept; of those that are older, each new one removes what has ended."""
RUN_FILE, VERDICTS_FILE, STORIES, PACKETS = "run.json", "verdicts.json", "stories", "packets"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{3}Z-\d+(-\d+)?")
_REMOVED = ".removed-"
DRAFT = ".draft-"
"""What the name of a file begins with that is being written into a run's folder."""


def runs_dir() -> Path:
    """``$TESTBED_STATE/runs``, else that of the user's state directory. It may not be there yet."""
    named = os.environ.get("TESTBED_STATE")
    return (Path(named).absolute() if named else platformdirs.user_state_path("sockops-testbed")) / "runs"


def kept_runs() -> list[Path]:
    """The folders of the runs that are kept, oldest first."""
    try:
        return [path for path in _runs() if (path / RUN_FILE).is_file()]
    except OSError:
        return []  # nothing has been kept yet, or nothing that this user may see


def _runs() -> list[Path]:
    return sorted(path for path in runs_dir().iterdir() if _NAME.fullmatch(path.name))


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a directory (flock), which ends with the process; waits for who has it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    acquired("descriptor", fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def is_running(folder: Path) -> bool:
    """Whether the process that records this run is alive: it holds the folder's lock."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def new_folder(named: Path | None = None) -> tuple[Path, int]:
    """An empty folder for a run, locked by the descriptor that comes with it.

    One that is ``named`` elsewhere is linked among the runs, so that it is the last one too, and is
    never removed. `MachineError` where it cannot be made.
    """
    place = named.absolute() if named is not None else None
    try:
        runs_dir().mkdir(parents=True, exist_ok=True)
        acquired("kept folder", runs_dir())
        with folder_lock(runs_dir()):  # what is being made is not pruned before it is locked
            _prune(KEPT - 1)
            folder = _made(place)
        acquired("kept folder", folder)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        acquired("kept descriptor", fd)  # the run's lock, which its first failure takes
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        raise state_error(f"make a folder for the run in {place or runs_dir()}", error) from error
    return folder, fd


def need_state() -> None:
    """`MachineError` where no run could be kept: before one is begun."""
    try:
        runs_dir().mkdir(parents=True, exist_ok=True)
        with folder_lock(runs_dir()), TemporaryDirectory(dir=runs_dir(), prefix=_REMOVED):
            pass  # it can be written to
    except OSError as error:
        raise state_error(f"keep stories in {runs_dir()}", error) from error


def _made(place: Path | None) -> Path:
    name = f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%f')[:-3]}Z-{os.getpid()}"
    for path in (runs_dir() / f"{name}{f'-{number}' if number else ''}" for number in range(1000)):
        if path.is_symlink() or path.exists():
            continue
        if place is None:
            path.mkdir()
            return path
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise OSError(errno.ENOTEMPTY, "not empty", str(place))
        path.symlink_to(place)
        return place
    raise OSError(errno.EEXIST, "no name is free", name)


def _prune(most: int) -> None:
    """Removes all but the newest. Those that still run stay, and whatever is no run. The lock is held."""
    _tidy()
    runs = _runs()
    for path in runs[: max(0, len(runs) - most)]:
        if path.is_symlink():
            path.unlink()
        elif not is_running(path):
            remove(path)


def tidy() -> None:
    """Removes what runs that were killed had begun to write, or to remove."""
    with suppress(OSError), folder_lock(runs_dir()):  # there are no runs, or none that this user may touch
        _tidy()


def _tidy() -> None:
    for grave in runs_dir().glob(f"{_REMOVED}*"):
        shutil.rmtree(grave, ignore_errors=True)
    for run in _runs():
        for draft in run.rglob(f"{DRAFT}*"):
            if not is_running(run):
                draft.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Removes a run's folder among the kept ones; at once for those who look."""
    grave = folder.with_name(f"{_REMOVED}{folder.name}")
    folder.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


def state_error(what: str, error: OSError) -> MachineError:
    """What a person can do about an error of the file system where runs are kept."""
    room = remedy(errno.ENOSPC, runs_dir()) + "; or " if error.errno == errno.ENOSPC else ""
    return machine_error(what, error, f"{room}set TESTBED_STATE to a directory that can be written to")
