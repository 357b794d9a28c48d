"""The cache: directories by content, verified when used, written whole or not at all, capped in size.

Beneath the cache's root are ``store/ROOM/ENTRY``, to which the cap applies, ``locks``, ``drafts`` and
``partial`` (downloads to be resumed). An entry's modification time is when it was last used.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from testbed.acquired import acquired
from testbed.errors import MachineError, UsageError, command, errno_name

DEFAULT_CAP = 4 << 30
_RECORD = ".record.json"
WRITING = "writing"  # held, shared, by those who write drafts, lists and downloads
_IN_USE = 3600.0  # what was used in the last hour may be in a guest that runs
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Freed:
    """An entry that was removed, and how many bytes that gave back."""

    name: str
    size: int


class Damaged(Exception):
    """An entry whose files are not what was written. ``path`` is the first of them."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path = path
        self.why = why


def cache_root() -> Path:
    """``$TESTBED_CACHE``, else the user's cache directory; made where it does not exist."""
    named = os.environ.get("TESTBED_CACHE")
    root = Path(named).absolute() if named else platformdirs.user_cache_path("sockops-testbed")
    return _made(root)


def cache_dir(name: str) -> Path:
    """The directory of a room's entries (each a file or a directory in it), to which the cap applies."""
    return _made(cache_root() / "store" / name)


def side_dir(name: str) -> Path:
    """A directory of the cache to which no cap applies."""
    return _made(cache_root() / name)


def _made(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        acquired("kept folder", path)
    except OSError as error:
        raise cache_error(f"make {path}", error) from error
    return path


def cache_error(what: str, error: OSError) -> MachineError:
    """What a person can do about an error of the cache's file system."""
    why = errno_name(error.errno or 0)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        fix = f"{command('kernels prune')}, free some space, or set TESTBED_CACHE to a directory elsewhere"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        fix = "make it yours (chown), or set TESTBED_CACHE to a directory that you can write to"
    else:
        fix = "set TESTBED_CACHE to a directory that can be written to"
    return MachineError(what, why, fix)


def used(path: Path) -> None:
    """Notes that an entry is used now."""
    try:
        os.utime(path)
    except PermissionError:
        return  # another user's cache, to be read only: its owner's business


def size_cap() -> int:
    """``$TESTBED_CACHE_CAP`` in bytes, 4 GiB otherwise."""
    named = os.environ.get("TESTBED_CACHE_CAP")
    return parse_size(named, "TESTBED_CACHE_CAP") if named else DEFAULT_CAP


def parse_size(text: str, what: str = "--cap") -> int:
    """Bytes of ``500M``, ``4G``, ``4GiB``. `UsageError` for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"read {what}", f"{text!r} is no size", "write it as 500M or 4G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


@contextmanager
def locked(name: str, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Holds the cache's lock of that name; waits for another process that holds it, whose death frees it.

    Gives True; without ``wait`` False, and no lock, when another process holds it.
    """
    path = side_dir("locks") / re.sub(r"[^\w.+~-]", "_", name)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise cache_error(f"lock {path}", error) from error
    try:
        yield _flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
    finally:
        os.close(fd)


def _flock(fd: int, kind: int, wait: bool) -> bool:
    try:
        fcntl.flock(fd, kind | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_entry(room: str, key: str, fill: Callable[[Path], None]) -> Path:
    """The entry ``key`` of ``room``, filled by ``fill(DIRECTORY)`` if it is not there; all of it or nothing.

    The caller holds the entry's lock.
    """
    path = cache_dir(room) / key
    if path.is_dir():
        return path
    drafts = side_dir("drafts") / room / key  # of a process that died: the lock is ours, so it is nobody's
    try:
        shutil.rmtree(drafts, ignore_errors=True)
        drafts.mkdir(parents=True)
        fill(drafts)
        record = {
            str(file.relative_to(drafts)): _facts(file)
            for file in sorted(drafts.rglob("*"))
            if file.is_file() and not file.is_symlink()
        }
        (drafts / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        drafts.rename(path)
    except OSError as error:
        shutil.rmtree(drafts, ignore_errors=True)
        raise cache_error(f"write to the cache ({path})", error) from error
    except BaseException:
        shutil.rmtree(drafts, ignore_errors=True)
        raise
    apply_cap(spare_recent=True)
    return path


def _facts(file: Path) -> tuple[int, int, str]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, file_digest(file)


def verify_entry(path: Path, *, wholly: bool = False) -> None:
    """`Damaged` unless each file is as it was written.

    By size and time, and by content where those differ (a copied cache) or when ``wholly``.
    """
    try:
        text = (path / _RECORD).read_text(encoding="utf-8")
        record: dict[str, tuple[int, int, str]] = json.loads(text)
        for name, (size, mtime, digest) in record.items():
            _verify_file(path / name, size, mtime, digest, wholly)
    except (ValueError, TypeError, AttributeError) as error:
        raise Damaged(path / _RECORD, "is no record") from error
    except OSError as error:
        raise Damaged(Path(error.filename), errno_name(error.errno or 0)) from error


def _verify_file(file: Path, size: int, mtime: int, digest: str, wholly: bool) -> None:
    status = file.lstat()
    if status.st_size != size:
        raise Damaged(file, f"has {status.st_size} bytes instead of {size}")
    if (wholly or status.st_mtime_ns != mtime) and file_digest(file) != digest:
        raise Damaged(file, "has other content than was written")


def remove_entry(path: Path) -> None:
    """Removes an entry, whatever it is; at once for those who look (it is renamed first)."""
    grave = side_dir("drafts") / f".removed-{os.getpid()}-{path.name}"
    try:
        path.rename(grave)
        _unlink(grave)
    except FileNotFoundError:
        return  # another process was faster
    except OSError as error:
        raise cache_error(f"remove {path}", error) from error


def _unlink(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def entry_size(path: Path) -> int:
    """How many bytes of disk an entry takes, as far as its files are still there."""
    total = 0
    for file in (path, *path.rglob("*")):
        try:
            total += file.lstat().st_blocks * 512
        except FileNotFoundError:
            continue  # being removed meanwhile
    return total


def apply_cap(cap: int | None = None, *, spare_recent: bool = False) -> list[Freed]:
    """Removes what was used longest ago until all rooms together take at most ``cap`` bytes.

    With ``spare_recent`` what was used in the last hour stays, even beyond the cap.
    """
    cap = size_cap() if cap is None else cap
    entries: list[tuple[float, int, Path]] = []
    for path in side_dir("store").glob("*/*"):
        try:
            entries.append((path.lstat().st_mtime, entry_size(path), path))
        except FileNotFoundError:
            continue  # removed meanwhile
    total = sum(size for _, size, _ in entries)
    freed: list[Freed] = []
    for last, size, path in sorted(entries):
        if total <= cap or (spare_recent and time.time() - last < _IN_USE):
            break
        freed.append(Freed(_name(path), size))
        remove_entry(path)
        total -= size
    return freed


def _name(path: Path) -> str:
    """What a person calls an entry: a kernel's is by its release, though its directory is by its digest."""
    release = next((each.name for each in path.glob("lib/modules/*")), path.name)
    return f"{path.parent.name}/{release}"


def prune(cap: int | None = None, *, everything: bool = False) -> list[Freed]:
    """Removes what is beyond the cap; with ``everything`` all entries, lists and downloads begun.

    What another process is fetching just now stays.
    """
    freed = apply_cap(0 if everything else cap)
    with locked(WRITING, wait=False) as alone:
        if everything and alone:
            freed += [_removed(side_dir(name)) for name in ("drafts", "partial", "apt")]
    return [each for each in freed if each.size]


def _removed(path: Path) -> Freed:
    size = entry_size(path)
    try:
        _unlink(path)
    except OSError as error:
        raise cache_error(f"remove {path}", error) from error
    return Freed(path.name, size)
