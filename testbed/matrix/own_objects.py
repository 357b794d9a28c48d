"""The objects that guests are given, compiled on this machine: a guest has no compiler."""

from __future__ import annotations

import hashlib
from pathlib import Path

from testbed.bpf.elf.clang import compile_object
from testbed.bpf.own_program import compiled_name
from testbed.data import data_dir
from testbed.gates.program import gate_sources
from testbed.kernels.cache import add_entry, cache_dir, locked, used
from testbed.kmesh.reference import build_reference
from testbed.lab.impatience import impatience_sources
from testbed.lab.redirect import redirect_sources
from testbed.observe.own_object import object_sources
from testbed.observe.tap import tap_sources

_ROOM = "objects"
_OURS = (
    tap_sources(True),
    tap_sources(False),
    impatience_sources(),
    redirect_sources(),
    gate_sources(),
    object_sources("capture"),
    object_sources("states"),
)


def own_objects() -> dict[str, bytes]:
    """The tap (for kernels with and without network namespace cookies), all else that is our own, and
    the reference, by the names that they have in the data directory ``objects``.

    They are kept by the content of ``bpf/``. `ProgramError` when one does not compile.
    """
    key = _digest(data_dir("bpf"))
    path = cache_dir(_ROOM) / key
    if not path.is_dir():
        with locked(f"{_ROOM}-{key}"):
            add_entry(_ROOM, key, _compile)
    used(path)
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.o"))}


def _compile(folder: Path) -> None:
    build_reference(folder)
    for sources in _OURS:
        for source in sources.sources:
            compile_object(source, sources.include, folder / compiled_name(source, sources), sources.defines)


def _digest(root: Path) -> str:
    """By place too: an object's line information names its source."""
    state = hashlib.sha256(str(root).encode())
    for file in sorted(root.rglob("*.[ch]")):
        state.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return state.hexdigest()[:32]
