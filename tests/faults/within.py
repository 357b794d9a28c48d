"""Makes a machine poor for one command alone, then becomes that command: ``within.py SPEC COMMAND…``.

SPEC is JSON, of `tests.faults.poverty.Poverty`. Mounts are made in a mount namespace of the command's own.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode() if kind else None)
    _checked(_libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}")


def _mount_all(spec: dict[str, Any]) -> None:
    _checked(_libc.unshare(CLONE_NEWNS), "unshare")
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    for path in spec["unmounted"]:
        while os.path.ismount(path):  # they lie one on the other
            _checked(_libc.umount2(path.encode(), MNT_DETACH), f"umount {path}")
    for path, options in spec["tmpfs"]:
        _mount("tmpfs", path, "tmpfs", 0, options)
    for source, target in spec["bound"]:
        _mount(source, target, None, MS_BIND)
    for path in spec["filled"]:
        _fill(Path(path))
    for path in spec["read_only"]:
        _mount(path, path, None, MS_BIND | MS_REC)
        _mount("none", path, None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def _fill(folder: Path) -> None:
    """Not a byte is left there, nor an inode."""
    with (folder / "filling").open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size >>= 1


def main(text: str, *words: str) -> None:
    """Becomes the command ``words``, in the poverty that ``text`` says."""
    spec = json.loads(text)
    _mount_all(spec)
    for path in spec["cgroups"]:
        Path(path, "cgroup.procs").write_text("0", encoding="ascii")
    for name, most in spec["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(kind, (most, most))
    os.execvp(words[0], words)  # noqa: S606 (a list of words; no shell)


if __name__ == "__main__":
    main(*sys.argv[1:])
