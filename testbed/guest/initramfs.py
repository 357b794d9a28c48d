"""The initramfs of a guest: one archive that all guests share, made once, and a small one for each kernel."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import MachineError
from testbed.guest.cpio import Archive
from testbed.guest.system import System
from testbed.kernels.cache import add_entry, cache_dir, cache_error, locked, used
from testbed.kernels.kernel import Kernel
from testbed.kernels.modules import load_order

MODULES = (
    *("veth", "inet_diag", "tcp_diag", "udp_diag", "raw_diag", "unix_diag", "af_packet_diag", "dummy"),
    *("bridge", "sch_ingress", "cls_bpf", "act_bpf", "sch_netem"),
)
"""What labs and the tools in a guest use, where the kernel has it as modules."""
_ROOM = "initramfs"
_NAME = "base.cpio"
_COPY = 1 << 30


def base(system: System) -> Path:
    """The archive with what seldom changes: the cached one, else made now. `MachineError` if it cannot be."""
    key = system.base_digest()[:32]
    path = cache_dir(_ROOM) / key / _NAME
    if not path.is_file():
        with locked(f"{_ROOM}-{key}"):
            if not path.is_file():
                add_entry(_ROOM, key, lambda folder: _write(system.base_archive(), folder / _NAME))
    used(path.parent)
    return path


def overlay(kernel: Kernel, files: Mapping[str, bytes] | None = None) -> bytes:
    """An archive with the modules that guests need of that kernel, in their order of loading, and files."""
    made = Archive()
    if kernel.modules is not None:
        for number, module in enumerate(load_order(kernel, MODULES)):
            made.file(f"/modules/{number:03}-{module.name}.ko", module.data)
    made.update(files or {})
    buffer = io.BytesIO()
    made.write(buffer)
    return buffer.getvalue()


@contextmanager
def joined(archives: Sequence[Path | bytes]) -> Iterator[Path]:
    """One file of several archives, in memory, for as long as the block lasts."""
    fd = os.memfd_create("initramfs", os.MFD_CLOEXEC)
    try:
        for archive in archives:
            if isinstance(archive, bytes):
                _write_all(fd, archive)
                continue
            with archive.open("rb") as file:
                while os.sendfile(fd, file.fileno(), None, _COPY):
                    pass
        yield Path(f"/proc/{os.getpid()}/fd/{fd}")
    except OSError as error:
        raise MachineError("put an initramfs into memory", str(error), "free some memory") from error
    finally:
        os.close(fd)


def archive_digest(parts: Sequence[bytes | str]) -> str:
    """Stands for all of the parts in their order."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _write(archive: Archive, path: Path) -> None:
    try:
        with path.open("wb") as file:
            archive.write(file)
    except OSError as error:
        raise cache_error(f"write {path}", error) from error
