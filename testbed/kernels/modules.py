"""A kernel's modules: which to load, in which order, and their contents."""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import zstandard

from testbed.errors import MachineError
from testbed.kernels.kernel import Kernel

_ELF_HEADER, _SECTION_HEADER = 64, 64  # bytes
_SUFFIXES = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")


@dataclass(frozen=True)
class Module:
    """A module to be given to init_module(2) as it is."""

    name: str
    data: bytes


def load_order(kernel: Kernel, names: Sequence[str]) -> list[Module]:
    """The modules of those names with what they depend on, each once, dependencies first.

    ``-`` and ``_`` are the same in a name. What is built in is left out, and so is what the kernel
    does not have (see `absent`). `MachineError` for a file that cannot be unpacked.
    """
    if kernel.modules is None:
        return []
    paths = dependencies(kernel.modules)
    direct = {name: needed for name, (_, needed) in paths.items()}
    return [
        Module(name, read_module(kernel.modules / paths[name][0]))
        for name in _dependencies_first(map(normal, names), direct)
    ]


def absent(kernel: Kernel, names: Sequence[str]) -> list[str]:
    """Those of the names that are neither modules of the kernel nor built in."""
    if kernel.modules is None:
        return []  # whoever gave no modules knows what is built in
    known = dependencies(kernel.modules).keys() | builtin(kernel.modules)
    return [name for name in names if normal(name) not in known]


def normal(name: str) -> str:
    """The name as the kernel has it: of ``net/ife/act-x.ko.xz``, ``act-x`` and ``act_x`` it is ``act_x``."""
    return name.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _dependencies_first(names: Iterable[str], direct: Mapping[str, Sequence[str]]) -> list[str]:
    """The names and what they need, as far as it is in ``direct``, each once and after what it needs."""
    order: list[str] = []
    seen: set[str] = set()

    def add(name: str) -> None:
        if name in seen or name not in direct:
            return
        seen.add(name)
        for each in direct[name]:
            add(each)
        order.append(name)

    for name in names:
        add(name)
    return order


def dependencies(modules: Path) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """What modules.dep says: by name, the file (relative to ``modules``) and the names that it needs.

    modules.dep lists what is to be loaded first last, indirect dependencies too.
    """
    try:
        text = (modules / "modules.dep").read_text(encoding="utf-8")
    except OSError as error:
        raise MachineError(
            f"read {modules / 'modules.dep'}", error.strerror or str(error), f"depmod -b … {modules.name}"
        ) from error
    found: dict[str, tuple[Path, tuple[str, ...]]] = {}
    for line in text.splitlines():
        path, colon, needed = line.partition(":")
        if colon:
            found[normal(path)] = (Path(path), tuple(normal(each) for each in reversed(needed.split())))
    return found


def builtin(modules: Path) -> frozenset[str]:
    """The names in modules.builtin; none where there is no such file."""
    path = modules / "modules.builtin"
    if not path.is_file():
        return frozenset()
    return frozenset(map(normal, path.read_text(encoding="utf-8").split()))


def read_module(path: Path) -> bytes:
    """The content of a module's file, unpacked. `MachineError` when that does not go."""
    what = f"read the module {path}"
    try:
        return unpack_module(path.read_bytes(), path.name)
    except OSError as error:
        raise MachineError(what, error.strerror or str(error)) from error
    except (EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
        raise MachineError(what, f"it is damaged ({error})", "fetch or build the kernel again") from error


def unpack_module(data: bytes, name: str) -> bytes:
    """Errors are those of the libraries."""
    if name.endswith(".gz"):
        return zlib.decompress(data, wbits=31)
    if name.endswith(".xz"):
        return lzma.decompress(data)
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def module_files(folder: Path) -> Iterator[Path]:
    """All modules beneath a directory; links to directories are not followed."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(files) if name.endswith(_SUFFIXES))


def needs(data: bytes) -> tuple[str, ...]:
    """The names after ``depends=`` in a module's .modinfo (NUL-separated ``key=value``); direct ones only.

    `ValueError` for what is no whole module of a 64-bit little-endian machine.
    """
    for entry in _modinfo(data).split(b"\0"):
        if entry.startswith(b"depends="):
            return tuple(normal(name) for name in entry[8:].decode("latin-1").split(",") if name)
    return ()


def _modinfo(data: bytes) -> bytes:
    # By hand: pyelftools takes milliseconds a file, and a kernel has a thousand.
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < _ELF_HEADER:
        raise ValueError("it is no ELF of 64 bits")
    (start,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    if size < _SECTION_HEADER or start + count * size > len(data) or names_index >= count:
        raise ValueError("it is cut short")
    headers = [struct.unpack_from("<IIQQQQ", data, start + index * size) for index in range(count)]
    names = headers[names_index][4]
    for name, _, _, _, offset, length in headers:
        if data.startswith(b".modinfo\0", names + name):
            return data[offset : offset + length]
    return b""


def _needs_of(path: Path) -> tuple[str, ...]:
    try:
        return needs(read_module(path))
    except ValueError as error:
        raise MachineError(f"read the module {path}", f"it is no whole module: {error}") from error


def write_dependencies(modules: Path) -> None:
    """Makes modules.dep, as depmod does, of what the modules beneath ``modules`` say of themselves."""
    files = {normal(path.name): path for path in module_files(modules)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # unpacking xz takes seconds, and does not hold the GIL
        direct = dict(zip(files, pool.map(_needs_of, files.values()), strict=True))
    lines: list[str] = []
    for name, path in files.items():
        order = _dependencies_first([name], direct)
        needed = [str(files[each].relative_to(modules)) for each in reversed(order[:-1])]
        lines.append(" ".join((f"{path.relative_to(modules)}:", *needed)))
    (modules / "modules.dep").write_text("\n".join(lines) + "\n", encoding="utf-8")
