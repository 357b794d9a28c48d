"""The calls of libbpf.so.1 on ELF objects, typed. Used by the loader's own process only.

libbpf trusts an object's BTF and relocations more than it should: a damaged one can make it crash.
So nothing here is called in a process that would be missed (see `testbed.bpf.elf.worker`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cache, cached_property

from testbed.bpf.libbpf import Signature, checked, open_library


class _OpenOptions(ctypes.Structure):
    """The leading part of ``struct bpf_object_open_opts`` (libbpf 1.0); ``sz`` tells libbpf so."""

    _fields_ = (("sz", c_size_t), ("object_name", c_char_p))


class _MapCreateOptions(ctypes.Structure):
    """The leading part of ``struct bpf_map_create_opts`` (libbpf 0.7)."""

    _fields_ = (("sz", c_size_t), ("btf_fd", c_uint32))


_P = c_void_p
_CALLS: tuple[Signature, ...] = (
    ("bpf_object__open_mem", _P, (_P, c_size_t, POINTER(_OpenOptions))),
    ("bpf_object__load", c_int, (_P,)),
    ("bpf_object__close", None, (_P,)),
    ("bpf_object__btf", _P, (_P,)),
    ("bpf_object__next_program", _P, (_P, _P)),
    ("bpf_object__next_map", _P, (_P, _P)),
    ("bpf_program__name", c_char_p, (_P,)),
    ("bpf_program__section_name", c_char_p, (_P,)),
    ("bpf_program__type", c_int, (_P,)),
    ("bpf_program__expected_attach_type", c_int, (_P,)),
    ("bpf_program__set_type", c_int, (_P, c_int)),
    ("bpf_program__set_expected_attach_type", c_int, (_P, c_int)),
    ("bpf_program__insn_cnt", c_size_t, (_P,)),
    ("bpf_program__insns", _P, (_P,)),
    ("bpf_program__fd", c_int, (_P,)),
    ("bpf_program__set_autoload", c_int, (_P, c_bool)),
    ("bpf_program__set_log_buf", c_int, (_P, _P, c_size_t)),
    ("bpf_program__set_log_level", c_int, (_P, c_uint32)),
    ("bpf_map__name", c_char_p, (_P,)),
    ("bpf_map__type", c_int, (_P,)),
    ("bpf_map__key_size", c_uint32, (_P,)),
    ("bpf_map__value_size", c_uint32, (_P,)),
    ("bpf_map__max_entries", c_uint32, (_P,)),
    ("bpf_map__map_flags", c_uint32, (_P,)),
    ("bpf_map__is_internal", c_bool, (_P,)),
    ("bpf_map__fd", c_int, (_P,)),
    ("bpf_map__reuse_fd", c_int, (_P, c_int)),
    ("bpf_map__set_max_entries", c_int, (_P, c_uint32)),
    ("bpf_map__inner_map", _P, (_P,)),
    ("bpf_map__set_inner_map_fd", c_int, (_P, c_int)),
    ("bpf_map__set_pin_path", c_int, (_P, c_char_p)),
    ("bpf_map__initial_value", _P, (_P, POINTER(c_size_t))),
    ("bpf_map_create", c_int, (c_int, c_char_p, c_uint32, c_uint32, c_uint32, _P)),
    ("btf__raw_data", _P, (_P, POINTER(c_uint32))),
    ("libbpf_strerror", c_int, (c_int, c_char_p, c_size_t)),
)
_FIRST_LIBBPF_ERRNO = 4000  # enum libbpf_errno


@cache
def _library() -> ctypes.CDLL:
    return open_library(_CALLS)


def error_text(number: int) -> str:
    """The words for an errno, or for one of libbpf's own numbers (from 4000 on)."""
    number = abs(number)
    if number < _FIRST_LIBBPF_ERRNO:
        return os.strerror(number)
    text = ctypes.create_string_buffer(256)
    _library().libbpf_strerror(number, text, len(text))
    return text.value.decode(errors="backslashreplace")


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="backslashreplace")


class ObjectProgram:
    """A program of an open object: valid until that is closed."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    @cached_property
    def name(self) -> str:
        return _text(_library().bpf_program__name(self.handle))

    @property
    def section(self) -> str:
        return _text(_library().bpf_program__section_name(self.handle))

    @property
    def prog_type(self) -> int:
        return int(_library().bpf_program__type(self.handle))

    @property
    def attach_type(self) -> int:
        return int(_library().bpf_program__expected_attach_type(self.handle))

    @property
    def fd(self) -> int:
        """Its descriptor, negative where it was not loaded. The object's own."""
        return int(_library().bpf_program__fd(self.handle))

    def set_autoload(self, on: bool) -> None:
        """Whether the object's load loads it."""
        checked(_library().bpf_program__set_autoload(self.handle, on), f"autoload of {self.name}")

    def set_kind(self, prog_type: int, attach_type: int) -> None:
        """For a section that libbpf derives nothing from."""
        checked(_library().bpf_program__set_type(self.handle, prog_type), f"type of {self.name}")
        result = _library().bpf_program__set_expected_attach_type(self.handle, attach_type)
        checked(result, f"attach type of {self.name}")

    def instructions(self) -> bytes:
        """Eight bytes each, as they are now: before the load without subprograms."""
        size = int(_library().bpf_program__insn_cnt(self.handle))
        address = _library().bpf_program__insns(self.handle)
        return ctypes.string_at(address, 8 * size) if address and size else b""

    def log_into(self, buffer: ctypes.Array[ctypes.c_char], level: int) -> None:
        """Has the verifier write into ``buffer``, which must outlive the load. 4: statistics alone."""
        checked(_library().bpf_program__set_log_buf(self.handle, buffer, len(buffer)), "log buffer")
        checked(_library().bpf_program__set_log_level(self.handle, level), "log level")


class ObjectMap:
    """A map of an open object: valid until that is closed. Sizes in bytes."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def _number(self, what: str) -> int:
        return int(getattr(_library(), f"bpf_map__{what}")(self.handle))

    @cached_property
    def name(self) -> str:
        return _text(_library().bpf_map__name(self.handle))

    @property
    def map_type(self) -> int:
        return self._number("type")

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(type, key size, value size, max entries, flags)"""
        lib, handle = _library(), self.handle
        return (
            lib.bpf_map__type(handle),
            lib.bpf_map__key_size(handle),
            lib.bpf_map__value_size(handle),
            lib.bpf_map__max_entries(handle),
            lib.bpf_map__map_flags(handle),
        )

    @cached_property
    def internal(self) -> bool:
        """Whether it holds an object's variables (``.data``, ``.bss``, ``.rodata``, ``.kconfig``)."""
        return bool(_library().bpf_map__is_internal(self.handle))

    @property
    def fd(self) -> int:
        """Its descriptor, negative before the load. The object's own."""
        return self._number("fd")

    @property
    def inner(self) -> ObjectMap | None:
        handle = _library().bpf_map__inner_map(self.handle)
        return ObjectMap(handle) if handle else None

    def reuse(self, fd: int) -> None:
        """Takes an existing map instead of making one; libbpf keeps a descriptor of its own."""
        checked(_library().bpf_map__reuse_fd(self.handle, fd), f"reuse of map {self.name}")

    def set_max_entries(self, entries: int) -> None:
        """Before the load. libbpf rounds a ring buffer's bytes up to what the kernel takes."""
        checked(_library().bpf_map__set_max_entries(self.handle, entries), f"size of map {self.name}")

    def set_inner(self, fd: int) -> None:
        """What the maps in this one look like; libbpf leaves ``fd`` to its owner."""
        checked(_library().bpf_map__set_inner_map_fd(self.handle, fd), f"inner map of {self.name}")

    def unpin(self) -> None:
        """Declared to be pinned or not: here every map is owned by descriptors."""
        checked(_library().bpf_map__set_pin_path(self.handle, None), f"pin path of {self.name}")

    def write_initial(self, offset: int, data: bytes) -> None:
        """Writes into the variables as the load will set them. `ValueError` beyond their end."""
        size = c_size_t(0)
        address = _library().bpf_map__initial_value(self.handle, byref(size))
        if not address or offset < 0 or offset + len(data) > size.value:
            raise ValueError(
                f"{self.name} has {size.value} bytes; {len(data)} at {offset} are not all within"
            )
        ctypes.memmove(address + offset, data, len(data))


class OpenObject:
    """An ELF object that libbpf has read. `OSError` (with libbpf's own numbers too) when it cannot."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data  # libbpf reads from it until the load
        options = _OpenOptions(ctypes.sizeof(_OpenOptions), name.encode(errors="replace"))
        self._handle: int | None = _library().bpf_object__open_mem(data, len(data), byref(options))
        if not self._handle:
            number = ctypes.get_errno()
            raise OSError(number, error_text(number))

    def _walk(self, what: str) -> Iterator[int]:
        following = getattr(_library(), f"bpf_object__next_{what}")
        handle = following(self._handle, None)
        while handle:
            yield handle
            handle = following(self._handle, handle)

    @cached_property
    def programs(self) -> list[ObjectProgram]:
        return [ObjectProgram(handle) for handle in self._walk("program")]

    @cached_property
    def maps(self) -> list[ObjectMap]:
        return [ObjectMap(handle) for handle in self._walk("map")]

    def btf(self) -> bytes:
        """The object's BTF with the offsets of its variables filled in; empty where it has none."""
        handle = _library().bpf_object__btf(self._handle)
        if not handle:
            return b""
        size = c_uint32(0)
        address = _library().btf__raw_data(handle, byref(size))
        return ctypes.string_at(address, size.value) if address else b""

    def load(self) -> None:
        """Makes the maps and loads the programs. `OSError`; then everything is undone."""
        result = _library().bpf_object__load(self._handle)
        if result < 0:
            raise OSError(-result, error_text(result))

    def close(self) -> None:
        """Frees all of it, its descriptors with it."""
        if self._handle is not None:
            _library().bpf_object__close(self._handle)
            self._handle = None


def create_map(map_type: int, key_size: int, value_size: int, max_entries: int) -> int:
    """A map without a name; returns its descriptor."""
    options = _MapCreateOptions(ctypes.sizeof(_MapCreateOptions), 0)
    result = _library().bpf_map_create(
        map_type, b"inner", key_size, value_size, max_entries, ctypes.addressof(options)
    )
    return checked(int(result), "bpf_map_create")
