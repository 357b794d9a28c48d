"""The calls of libbpf.so.1 that the testbed makes, typed; nothing else of ctypes leaves this module.

libbpf 1.x returns a negative errno. Each function here raises `OSError` with that errno instead,
except where its docstring names a value for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from ctypes import POINTER, byref, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Literal

from testbed.errors import MachineError

_SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)


class _MapInfo(ctypes.Structure):
    """The leading part of ``struct bpf_map_info`` (Linux 4.13)."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", ctypes.c_char * 16),
    )


@cache
def _library() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise MachineError("load libbpf.so.1", str(error), "apt-get install libbpf1") from error
    fd, pointer = c_int, c_void_p
    for name, result, arguments in (
        ("bpf_map_lookup_elem", c_int, (fd, pointer, pointer)),
        ("bpf_map_update_elem", c_int, (fd, pointer, pointer, c_uint64)),
        ("bpf_map_delete_elem", c_int, (fd, pointer)),
        ("bpf_map_get_next_key", c_int, (fd, pointer, pointer)),
        ("bpf_obj_get_info_by_fd", c_int, (fd, pointer, POINTER(c_uint32))),
        ("bpf_link_create", c_int, (fd, fd, c_int, pointer)),
        ("bpf_prog_attach", c_int, (fd, fd, c_int, c_uint32)),
        ("bpf_prog_detach2", c_int, (fd, fd, c_int)),
        ("bpf_prog_get_next_id", c_int, (c_uint32, POINTER(c_uint32))),
        ("bpf_map_get_next_id", c_int, (c_uint32, POINTER(c_uint32))),
        ("bpf_link_get_next_id", c_int, (c_uint32, POINTER(c_uint32))),
        ("libbpf_probe_bpf_helper", c_int, (c_int, c_int, pointer)),
        ("ring_buffer__new", c_void_p, (fd, _SAMPLE, pointer, pointer)),
        ("ring_buffer__consume", c_int, (pointer,)),
        ("ring_buffer__epoll_fd", c_int, (pointer,)),
        ("ring_buffer__free", None, (pointer,)),
    ):
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def map_info(map_fd: int) -> tuple[int, int, int, int]:
    """Returns (type, key size, value size, max entries) of a map; sizes in bytes."""
    info = _MapInfo()
    size = c_uint32(ctypes.sizeof(info))
    _checked(_library().bpf_obj_get_info_by_fd(map_fd, byref(info), byref(size)), "map info")
    return info.type, info.key_size, info.value_size, info.max_entries


def map_lookup(map_fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value of a key, or None where it is absent."""
    value = ctypes.create_string_buffer(value_size)
    result = _library().bpf_map_lookup_elem(map_fd, key, value)
    if result == -errno.ENOENT:
        return None
    _checked(result, "map lookup")
    return value.raw


def map_update(map_fd: int, key: bytes, value: bytes) -> None:
    """Sets the value of a key, present before or not (BPF_ANY)."""
    _checked(_library().bpf_map_update_elem(map_fd, key, value, 0), "map update")


def map_delete(map_fd: int, key: bytes) -> bool:
    """Removes a key; returns whether it was present."""
    result = _library().bpf_map_delete_elem(map_fd, key)
    if result == -errno.ENOENT:
        return False
    _checked(result, "map delete")
    return True


def map_next_key(map_fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """The key behind ``key`` (the first one for None), or None at the end."""
    following = ctypes.create_string_buffer(key_size)
    result = _library().bpf_map_get_next_key(map_fd, key, following)
    if result == -errno.ENOENT:
        return None
    _checked(result, "map next key")
    return following.raw


def link_create(program_fd: int, target_fd: int, attach_type: int) -> int:
    """Attaches by a bpf_link (cgroups: Linux 5.7) and returns its descriptor: closing it detaches."""
    return _checked(_library().bpf_link_create(program_fd, target_fd, attach_type, None), "bpf_link_create")


def program_attach(program_fd: int, target_fd: int, attach_type: int) -> None:
    """Attaches without a link: lasts as long as the target, or until `program_detach`."""
    _checked(_library().bpf_prog_attach(program_fd, target_fd, attach_type, 0), "BPF_PROG_ATTACH")


def program_detach(program_fd: int, target_fd: int, attach_type: int) -> None:
    """Takes back a `program_attach`."""
    _checked(_library().bpf_prog_detach2(program_fd, target_fd, attach_type), "BPF_PROG_DETACH")


def object_ids(kind: Literal["prog", "map", "link"]) -> set[int]:
    """The ids of every BPF program, map or link on the machine, whoever owns it."""
    following = getattr(_library(), f"bpf_{kind}_get_next_id")
    found: set[int] = set()
    number = c_uint32(0)
    while (result := following(number.value, byref(number))) == 0:
        found.add(number.value)
    if result != -errno.ENOENT:
        _checked(result, f"ids of every BPF {kind}")
    return found


def has_helper(prog_type: int, helper: int) -> bool:
    """Whether the running kernel lets a program of this type call the helper (``enum bpf_func_id``)."""
    return _checked(_library().libbpf_probe_bpf_helper(prog_type, helper, None), "helper probe") == 1


class RingConsumer:
    """The consumer of one ring buffer map; `close` unmaps it, the map lives on."""

    def __init__(self, map_fd: int, receive: Callable[[bytes], None]) -> None:
        """Calls ``receive`` with each record (its bytes, copied) in `consume`."""

        def sample(_context: int | None, data: int, size: int) -> int:
            receive(ctypes.string_at(data, size))
            return 0

        self._callback = _SAMPLE(sample)  # must outlive the ring
        self._ring: int | None = _library().ring_buffer__new(map_fd, self._callback, None, None)
        if not self._ring:
            number = ctypes.get_errno()
            raise OSError(number, f"ring_buffer__new: {os.strerror(number)}")

    def _open(self) -> int:
        if self._ring is None:
            raise ValueError("the ring consumer is closed")
        return self._ring

    def consume(self) -> int:
        """Takes all that is in the ring; returns how many records."""
        return _checked(_library().ring_buffer__consume(self._open()), "ring consume")

    def fileno(self) -> int:
        """A descriptor that is readable when a record has come in; owned by the consumer."""
        return int(_library().ring_buffer__epoll_fd(self._open()))

    def close(self) -> None:
        """Unmaps the ring. More than once is harmless."""
        if self._ring is not None:
            _library().ring_buffer__free(self._ring)
            self._ring = None
