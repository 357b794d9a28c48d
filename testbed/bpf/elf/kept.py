"""Objects of the testbed's own programs, compiled once and kept in the user's cache.

By all that they depend on: the sources with their headers, where these are, clang and its words, and the
system's headers of BPF. People's own sources, and the program set under test, are compiled each time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import platformdirs

from testbed.acquired import acquired
from testbed.bpf.elf.clang import compile_command, compile_objects
from testbed.errors import UsageError
from testbed.scratch import scratch_folder

_MOST = 64  # objects: those of a few checkouts
_SYSTEM = ("/usr/include/bpf/bpf_helper_defs.h", "/usr/include/bpf/bpf_helpers.h", "/usr/include/linux/bpf.h")


def kept_objects(
    sources: Sequence[Path], include: Sequence[Path], defines: Sequence[str], stack: ExitStack
) -> list[Path]:
    """As `testbed.bpf.elf.clang.compile_objects`, where they are not kept already; errors as its.

    Where nothing can be kept they lie in a temporary directory, until ``stack`` closes.
    """
    names = [_name(source, include, defines) for source in sources]
    folder = kept_folder()
    there = [folder / name for name in names] if folder is not None else []
    if folder is not None and _are_kept(there):
        return there
    with alone(folder):
        if folder is not None and _are_kept(there):  # another was at it
            return there
        made = compile_objects(sources, include, stack.enter_context(scratch_folder("objects")), defines)
        try:
            return _keep(made, names, folder) if folder is not None else made
        except OSError:  # no room there, for example: they are where they were made
            return made


def _keep(made: Sequence[Path], names: Sequence[str], folder: Path) -> list[Path]:
    """Copies them there; each is there whole or not at all."""
    for path, name in zip(made, names, strict=True):
        with NamedTemporaryFile(dir=folder) as draft:
            draft.write(path.read_bytes())
            draft.flush()
            with suppress(FileExistsError):  # another has made the same meanwhile
                os.link(draft.name, folder / name)
                acquired("kept file", folder / name)
    _prune(folder)
    return [folder / name for name in names]


def _are_kept(paths: Sequence[Path]) -> bool:
    """Whether all of them are there; they count as used then."""
    if not all(path.is_file() for path in paths):
        return False
    for path in paths:
        with suppress(OSError):  # another has pruned it just now, or it is somebody else's
            os.utime(path)
    return True


@contextmanager
def alone(folder: Path | None) -> Iterator[None]:
    """One process at a time compiles: the others wait, and find what it has made in the folder."""
    if folder is None:
        yield
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        acquired("descriptor", fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def kept_folder() -> Path | None:
    """Where objects are kept; None where none can be."""
    named = os.environ.get("TESTBED_CACHE")
    root = Path(named).absolute() if named else platformdirs.user_cache_path("sockops-testbed")
    folder = root / "programs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    acquired("kept folder", folder)
    return folder if os.access(folder, os.W_OK) and folder.stat().st_uid == os.geteuid() else None


def _name(source: Path, include: Sequence[Path], defines: Sequence[str]) -> str:
    digest = hashlib.sha256(repr([compile_command(source, include, defines), _tools()]).encode())
    headers = [each for directory in include for each in sorted(directory.glob("*.h"))]
    for path in (source, *headers):
        try:
            digest.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
        except OSError as error:
            raise UsageError(f"read {path}", error.strerror or str(error)) from error
    return f"{source.stem}-{digest.hexdigest()[:32]}.o"


@cache
def _tools() -> list[tuple[str, int, int]]:
    """clang and the headers that it reads, by their state."""
    clang = shutil.which("clang")
    found = [path for path in (clang, *_SYSTEM) if path is not None and Path(path).exists()]
    states = [(path, Path(path).stat()) for path in found]
    return [(str(Path(path).resolve()), state.st_mtime_ns, state.st_size) for path, state in states]


def _prune(folder: Path) -> None:
    """Those that nobody has used for longest go."""
    kept = []
    for path in folder.glob("*.o"):
        with suppress(FileNotFoundError):
            kept.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(kept)[:-_MOST]:
        path.unlink(missing_ok=True)
    _tidy(folder)


def tidy_kept() -> None:
    """Removes what was being kept by those who were killed."""
    folder = kept_folder()
    with alone(folder):
        if folder is not None:
            _tidy(folder)


def _tidy(folder: Path) -> None:
    """Whoever writes there has its lock: what is no whole file is a dead process's."""
    for path in folder.glob("tmp*"):
        path.unlink(missing_ok=True)
