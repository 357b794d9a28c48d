"""What a stopped run holds, by the descriptors of its processes and its records; and what is left of it."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.bpf.libbpf import object_ids
from testbed.closing import Closing
from testbed.kernel.cgroup import CgroupRoot, processes

_KINDS: dict[str, Literal["prog", "map", "link"]] = {"prog_id": "prog", "map_id": "map", "link_id": "link"}
_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_SYMLINK_FOLLOW = 0x400
_NSFS_ROOT = -10003  # FD_NSFS_ROOT, uapi/linux/fcntl.h
_HANDLE = 128


class Holdings(Closing):
    """Everything that a process and those below it hold; closing it forgets them."""

    def __init__(self, pid: int, registry: Path, root: CgroupRoot) -> None:
        self._undo = ExitStack()
        self.cgroups = [root.path / path.stem for path in registry.glob("*.json")]
        self._pidfds: dict[int, str] = {}
        self._ids: dict[str, set[int]] = {kind: set() for kind in _KINDS.values()}
        self._namespaces: set[bytes] = set()
        pids = {*_family(pid), *(each for path in self.cgroups for each in processes(path))}
        for each in pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                self._look_at(each)

    def _look_at(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        self._undo.callback(os.close, pidfd)
        place = Path(f"/proc/{pid}")
        self._pidfds[pidfd] = f"process {pid} ({(place / 'comm').read_text(encoding='utf-8').strip()})"
        for info in list((place / "fdinfo").iterdir()):
            with suppress(FileNotFoundError):
                for line in info.read_text(encoding="utf-8").splitlines():
                    key, _, value = line.partition(":")
                    if key in _KINDS:
                        self._ids[_KINDS[key]].add(int(value))
                if str((place / "fd" / info.name).readlink()).startswith("net:["):
                    self._namespaces.add(_handle(place / "fd" / info.name))
        self._namespaces.add(_handle(place / "ns/net"))
        self._namespaces -= {b"", _handle(Path("/proc/self/ns/net"))}

    def count(self) -> dict[str, int]:
        """How many of each kind."""
        ids = {kind: len(ids) for kind, ids in self._ids.items()}
        return {
            **ids,
            "process": len(self._pidfds),
            "namespace": len(self._namespaces),
            "cgroup": len(self.cgroups),
        }

    def left(self) -> list[str]:
        """What is still there of all that descriptors and processes own."""
        poll = select.poll()
        for pidfd in self._pidfds:
            poll.register(pidfd, select.POLLIN)
        ended = {fd for fd, _ in poll.poll(0)}
        found = [words for pidfd, words in self._pidfds.items() if pidfd not in ended]
        for kind, ids in self._ids.items():
            found += [f"{kind} {number}" for number in ids & object_ids(kind)]  # type: ignore[arg-type]
        return found + [f"a network namespace ({each.hex()})" for each in self._namespaces if _opens(each)]

    def close(self) -> None:
        self._undo.close()


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        with suppress(FileNotFoundError):
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text(encoding="ascii").split())
    return found


def _handle(path: Path) -> bytes:
    """A namespace's own name, which no other ever has (Linux 6.18); empty where the kernel has none."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", _HANDLE - 8, 0), _HANDLE)
    mount = ctypes.c_int()
    done = _LIBC.name_to_handle_at(-100, os.fsencode(path), buffer, ctypes.byref(mount), _AT_SYMLINK_FOLLOW)
    if done != 0:
        return b""
    return buffer.raw[: 8 + struct.unpack_from("I", buffer.raw)[0]]


def _opens(handle: bytes) -> bool:
    """Whether the namespace of that name is in use: by a process, a descriptor or a mount."""
    fd = _LIBC.open_by_handle_at(_NSFS_ROOT, handle, os.O_RDONLY | os.O_CLOEXEC)
    if fd >= 0:
        os.close(fd)
    return bool(fd >= 0)


@dataclass(frozen=True)
class Remains:
    """What a run has left in its own places: records, labs, cgroups, files that are nobody's."""

    registry: Path
    temporary: Path
    state: Path

    def records(self) -> list[str]:
        return [
            str(path.relative_to(self.registry))
            for path in self.registry.rglob("*")
            if path.is_file() or path.is_socket()
        ]

    def files(self) -> list[str]:
        """Temporary ones, and drafts of what is kept."""
        drafts = [path for path in self.state.rglob(".*") if path.exists()]
        return [str(path) for path in (*self.temporary.rglob("*"), *drafts)]

    def runs(self) -> list[Path]:
        return [path for path in (self.state / "runs").glob("[0-9]*") if path.is_dir()]
