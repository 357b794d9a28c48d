"""A set of programs as a compiler has made it: kept as one file, and loaded again without the compiler.

The instructions have the numbers of maps in the place of their descriptors, which are another process's.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import asdict, dataclass
from functools import cache

from testbed.acquired import acquired
from testbed.bpf import libbpf
from testbed.bpf.kinds import MapType, ProgramKind

_INSTRUCTION = struct.Struct("=BBhi")  # struct bpf_insn: code, registers, offset, immediate
_LOAD_64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW, of two instructions' length
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD, where the source register would be
_OF_MAPS = {MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS}


class _MapOptions(ctypes.Structure):
    """``struct bpf_map_create_opts`` (libbpf 0.7)."""

    _fields_ = (
        ("sz", c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
        ("map_extra", c_uint64),
        ("numa_node", c_uint32),
        ("map_ifindex", c_uint32),
    )


class _ProgramOptions(ctypes.Structure):
    """The leading part of ``struct bpf_prog_load_opts`` (libbpf 0.6)."""

    _fields_ = (
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_uint32),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
    )


@cache
def _library() -> ctypes.CDLL:
    create = (c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p)
    load = (c_int, c_char_p, c_char_p, c_void_p, c_size_t, c_void_p)
    signatures = (("bpf_map_create", c_int, create), ("bpf_prog_load", c_int, load))
    return libbpf.open_library((*signatures, ("bpf_btf_load", c_int, (c_char_p, c_size_t, c_void_p))))


@dataclass(frozen=True)
class MapCode:
    """A map to be made. Sizes in bytes; ``btf`` is its number in the set, -1 without, with its types' ids."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf: int
    key_id: int
    value_id: int


@dataclass(frozen=True)
class SetCode:
    """All that the kernel is to be given. Instructions by the programs' names, maps in their order."""

    license: str
    maps: tuple[MapCode, ...]
    programs: Mapping[str, bytes]
    btfs: tuple[bytes, ...]
    diagnostics: str

    def to_bytes(self) -> bytes:
        """As `from_bytes` reads it."""
        told = {
            "license": self.license,
            "maps": [asdict(each) for each in self.maps],
            "programs": {name: _text(code) for name, code in self.programs.items()},
            "btfs": [_text(each) for each in self.btfs],
            "diagnostics": self.diagnostics,
        }
        return json.dumps(told).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> SetCode:
        """`ValueError` for what is damaged."""
        try:
            told = json.loads(data)
            code = cls(
                str(told["license"]),
                tuple(MapCode(**each) for each in told["maps"]),
                {name: _data(text) for name, text in told["programs"].items()},
                tuple(_data(text) for text in told["btfs"]),
                str(told["diagnostics"]),
            )
        except (KeyError, TypeError, AttributeError, RecursionError, zlib.error) as error:
            raise ValueError(f"it is no set of programs: {error!r}") from error
        if not code._is_sound():
            raise ValueError("it is no set of programs: it has values that no such set has")
        return code

    def _is_sound(self) -> bool:
        """Whether all values are of their fields' types, and what refers to maps or BTF finds them."""
        numbers = [tuple(asdict(each).values())[1:] for each in self.maps]
        return (
            all(type(number) is int and -1 <= number < 1 << 32 for each in numbers for number in each)
            and all(isinstance(each.name, str) and each.name.isascii() for each in self.maps)
            and all(each.btf < len(self.btfs) for each in self.maps)
            and all(len(each) % _INSTRUCTION.size == 0 for each in self.programs.values())
            and all(
                number is not None and 0 <= number < len(self.maps)
                for each in self.programs.values()
                for _, number in _references(each)
            )
            and all(name.isascii() for name in (self.license, *self.programs))
        )


def _text(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _data(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def set_code(
    programs: Mapping[str, bytes], maps: Mapping[str, int], license_: str, diagnostics: str
) -> SetCode | None:
    """What was loaded, by the programs' instructions and the maps' descriptors.

    None where it cannot be loaded so again: it refers to more than maps, or there are maps of maps.
    """
    names = {fd: name for name, fd in maps.items()}
    numbers = {fd: number for number, fd in enumerate(names)}
    code: dict[str, bytes] = {}
    for name, instructions in programs.items():
        made = bytearray(instructions)
        for at, fd in _references(instructions):
            if fd is None:
                return None
            numbers.setdefault(fd, len(numbers))
            struct.pack_into("=i", made, at + 4, numbers[fd])
        code[name] = bytes(made)
    btfs: dict[bytes, int] = {}
    described = tuple(_map_code(names.get(fd) or libbpf.object_name("map", fd), fd, btfs) for fd in numbers)
    if any(each.type in _OF_MAPS for each in described):
        return None
    return SetCode(license_, described, code, tuple(btfs), diagnostics)


def _references(instructions: bytes) -> list[tuple[int, int | None]]:
    """Where 64-bit constants are that stand for something: a map, by its number; None for anything else."""
    found: list[tuple[int, int | None]] = []
    at = 0
    while at < len(instructions):
        opcode, registers, _, immediate = _INSTRUCTION.unpack_from(instructions, at)
        if opcode == _LOAD_64:
            if registers >> 4:
                found.append((at, immediate if registers >> 4 == _MAP_FD else None))
            at += _INSTRUCTION.size
        at += _INSTRUCTION.size
    return found


def _map_code(name: str, fd: int, btfs: dict[bytes, int]) -> MapCode:
    described = libbpf.map_btf(fd)
    if described is None:
        return MapCode(name, *libbpf.map_info(fd), -1, 0, 0)
    blob, key_id, value_id = described
    return MapCode(name, *libbpf.map_info(fd), btfs.setdefault(blob, len(btfs)), key_id, value_id)


def load_code(
    code: SetCode, kinds: Sequence[tuple[str, ProgramKind]], stack: ExitStack
) -> tuple[dict[str, int], dict[str, int]]:
    """Makes the maps and loads the programs: descriptors by name, closed with ``stack``.

    `OSError` when the kernel does not take one.
    """
    btf_fds = [_kept(_library().bpf_btf_load(each, len(each), None), "BTF", stack) for each in code.btfs]
    maps = [_kept(_create(each, btf_fds), "map", stack) for each in code.maps]
    programs = {}
    for name, kind in kinds:
        instructions = bytearray(code.programs[name])
        for at, number in _references(code.programs[name]):
            assert number is not None, "only such sets are kept"
            struct.pack_into("=i", instructions, at + 4, maps[number])
        programs[name] = _kept(_load(name, kind, code.license, bytes(instructions)), "program", stack)
    return programs, {each.name: fd for each, fd in zip(code.maps, maps, strict=True)}


def _kept(fd: int, what: str, stack: ExitStack) -> int:
    libbpf.checked(fd, f"make a {what}")
    stack.callback(os.close, fd)
    acquired(what, fd)
    return fd


def _create(code: MapCode, btf_fds: Sequence[int]) -> int:
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=code.flags)
    if code.btf >= 0:
        options.btf_fd = btf_fds[code.btf]
        options.btf_key_type_id, options.btf_value_type_id = code.key_id, code.value_id
    name = code.name.encode()[:15]
    sizes = (code.key_size, code.value_size, code.max_entries)
    return int(_library().bpf_map_create(code.type, name, *sizes, ctypes.byref(options)))


def _load(name: str, kind: ProgramKind, license_: str, instructions: bytes) -> int:
    options = _ProgramOptions(sz=ctypes.sizeof(_ProgramOptions), expected_attach_type=kind.attach_type)
    words = (kind.prog_type, name.encode()[:15], license_.encode())
    count = len(instructions) // _INSTRUCTION.size
    return int(_library().bpf_prog_load(*words, instructions, count, ctypes.byref(options)))
