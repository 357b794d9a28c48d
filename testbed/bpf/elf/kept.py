"""Objects of the testbed's own programs, compiled once and kept in the user's cache.

By all that they depend on: the sources with their headers, where these are, clang and its words, and the
system's headers of BPF. People's own sources, and the program set under test, are compiled each time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import platformdirs

from testbed.bpf.elf.clang import compile_command, compile_objects
from testbed.errors import UsageError

_MOST = 64  # objects: those of a few checkouts
_ABANDONED_S = 3600
_SYSTEM = ("/usr/include/bpf/bpf_helper_defs.h", "/usr/include/bpf/bpf_helpers.h", "/usr/include/linux/bpf.h")


def kept_objects(
    sources: Sequence[Path], include: Sequence[Path], defines: Sequence[str], stack: ExitStack
) -> list[Path]:
    """As `testbed.bpf.elf.clang.compile_objects`, where they are not kept already; errors as its.

    Where nothing can be kept they lie in a temporary directory, until ``stack`` closes.
    """
    names = [_name(source, include, defines) for source in sources]
    folder = _folder()
    if folder is not None and all((folder / name).is_file() for name in names):
        for name in names:
            with suppress(OSError):  # another has pruned it just now, or it is somebody else's
                os.utime(folder / name)
        return [folder / name for name in names]
    made = compile_objects(
        sources, include, Path(stack.enter_context(TemporaryDirectory(dir=folder))), defines
    )
    if folder is None:
        return made
    for path, name in zip(made, names, strict=True):
        path.replace(folder / name)
    _prune(folder)
    return [folder / name for name in names]


def _folder() -> Path | None:
    named = os.environ.get("TESTBED_CACHE")
    root = Path(named).absolute() if named else platformdirs.user_cache_path("sockops-testbed")
    folder = root / "programs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
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
    for path in folder.glob("tmp*"):  # of who was killed while it compiled
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
