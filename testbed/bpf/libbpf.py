"""The calls of libbpf.so.1 that the testbed makes, typed; nothing else of ctypes leaves this module.

libbpf 1.x returns a negative errno. Each function here raises `OSError` with that errno instead,
except where its docstring names a value for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterable
from ctypes import POINTER, byref, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Literal, NamedTuple

from testbed.acquired import acquired
from testbed.errors import MachineError

_PROG_INFO_SIZE, _PROG_INFO_GPL = 88, 84  # struct bpf_prog_info up to gpl_compatible, the lowest bit there
_PROG_INFO_NAME = 64
_WHOLE_PROG_INFO, _PROG_INFO_VERIFIED = 224, 216  # up to verified_insns (Linux 5.16)
Signature = tuple[str, object, tuple[object, ...]]
ALLOW_MULTI = 2  # BPF_F_ALLOW_MULTI: beside the programs that a cgroup has already
_SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)


class _MapInfo(ctypes.Structure):
    """The leading part of ``struct bpf_map_info`` (Linux 4.18)."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", ctypes.c_char * 16),
        ("ifindex", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("btf_id", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
    )


class _BtfInfo(ctypes.Structure):
    """The leading part of ``struct bpf_btf_info`` (Linux 4.18)."""

    _fields_ = (("btf", c_uint64), ("btf_size", c_uint32), ("id", c_uint32))


def open_library(signatures: Iterable[Signature]) -> ctypes.CDLL:
    """libbpf with these functions declared: (name, type of the result, types of the arguments)."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise MachineError("load libbpf.so.1", str(error), "apt-get install libbpf1") from error
    for name, result, arguments in signatures:
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


_CALLS: tuple[Signature, ...] = (
    ("bpf_map_lookup_elem", c_int, (c_int, c_void_p, c_void_p)),
    ("bpf_map_update_elem", c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    ("bpf_map_delete_elem", c_int, (c_int, c_void_p)),
    ("bpf_map_get_next_key", c_int, (c_int, c_void_p, c_void_p)),
    ("bpf_obj_get_info_by_fd", c_int, (c_int, c_void_p, POINTER(c_uint32))),
    ("bpf_btf_get_fd_by_id", c_int, (c_uint32,)),
    ("libbpf_num_possible_cpus", c_int, ()),
    ("libbpf_version_string", ctypes.c_char_p, ()),
    ("bpf_link_create", c_int, (c_int, c_int, c_int, c_void_p)),
    ("bpf_prog_attach", c_int, (c_int, c_int, c_int, c_uint32)),
    ("bpf_prog_detach2", c_int, (c_int, c_int, c_int)),
    ("bpf_prog_get_next_id", c_int, (c_uint32, POINTER(c_uint32))),
    ("bpf_map_get_next_id", c_int, (c_uint32, POINTER(c_uint32))),
    ("bpf_link_get_next_id", c_int, (c_uint32, POINTER(c_uint32))),
    ("bpf_btf_get_next_id", c_int, (c_uint32, POINTER(c_uint32))),
    ("ring_buffer__new", c_void_p, (c_int, _SAMPLE, c_void_p, c_void_p)),
    ("ring_buffer__consume", c_int, (c_void_p,)),
    ("ring_buffer__epoll_fd", c_int, (c_void_p,)),
    ("ring_buffer__free", None, (c_void_p,)),
)


@cache
def _library() -> ctypes.CDLL:
    return open_library(_CALLS)


def require() -> None:
    """`MachineError` where there is no libbpf.so.1."""
    _library()


def version() -> str:
    """``v1.1`` and the like. `MachineError` where there is no libbpf.so.1."""
    return str(_library().libbpf_version_string().decode())


def checked(result: int, what: str) -> int:
    """The result of a call, unless it is an errno: that is raised."""
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def _info(fd: int, info: ctypes.Structure) -> None:
    size = c_uint32(ctypes.sizeof(info))
    checked(_library().bpf_obj_get_info_by_fd(fd, byref(info), byref(size)), "BPF_OBJ_GET_INFO_BY_FD")


def _map_info(map_fd: int) -> _MapInfo:
    info = _MapInfo()
    _info(map_fd, info)
    return info


def map_info(map_fd: int) -> tuple[int, int, int, int, int]:
    """Returns (type, key size, value size, max entries, flags BPF_F_…) of a map; sizes in bytes."""
    info = _map_info(map_fd)
    return info.type, info.key_size, info.value_size, info.max_entries, info.map_flags


def map_btf(map_fd: int) -> tuple[bytes, int, int] | None:
    """The BTF that the kernel holds for a map, and the ids of key and value in it. None without."""
    info = _map_info(map_fd)
    if not info.btf_id:
        return None
    btf_fd = checked(_library().bpf_btf_get_fd_by_id(info.btf_id), "BPF_BTF_GET_FD_BY_ID")
    acquired("BTF", btf_fd)
    try:
        described = _BtfInfo()
        _info(btf_fd, described)
        blob = ctypes.create_string_buffer(described.btf_size)
        described = _BtfInfo(ctypes.addressof(blob), len(blob))
        _info(btf_fd, described)
    finally:
        os.close(btf_fd)
    return blob.raw, info.btf_key_type_id, info.btf_value_type_id


def is_gpl_compatible(program_fd: int) -> bool:
    """Whether the kernel took a program's license for a GPL-compatible one (Linux 4.18)."""
    info = ctypes.create_string_buffer(_PROG_INFO_SIZE)
    size = c_uint32(len(info))
    checked(_library().bpf_obj_get_info_by_fd(program_fd, info, byref(size)), "BPF_OBJ_GET_INFO_BY_FD")
    return bool(info.raw[_PROG_INFO_GPL] & 1)


class ProgramSize(NamedTuple):
    """A loaded program: its instructions, bytes of machine code, instructions that the verifier processed.

    ``verified`` is 0 before Linux 5.16, ``machine_code`` 0 without the JIT compiler.
    """

    instructions: int
    machine_code: int
    verified: int


def program_size(program_fd: int) -> ProgramSize:
    """What the kernel says of a program (``struct bpf_prog_info``)."""
    info = ctypes.create_string_buffer(_WHOLE_PROG_INFO)
    size = c_uint32(len(info))
    checked(_library().bpf_obj_get_info_by_fd(program_fd, info, byref(size)), "BPF_OBJ_GET_INFO_BY_FD")
    jited, xlated = struct.unpack_from("=II", info, 16)
    (verified,) = struct.unpack_from("=I", info, _PROG_INFO_VERIFIED)
    return ProgramSize(xlated // 8, jited, verified)


def possible_cpus() -> int:
    """How many values an entry of a per-CPU map has."""
    return checked(_library().libbpf_num_possible_cpus(), "number of CPUs")


@cache
def _buffer_of(size: int) -> type[ctypes.Array[ctypes.c_char]]:
    """`ctypes.create_string_buffer` makes that type anew each time."""
    return ctypes.c_char * size


def map_lookup(map_fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value of a key, or None where it is absent."""
    value = _buffer_of(value_size)()
    result = _library().bpf_map_lookup_elem(map_fd, key, value)
    if result == -errno.ENOENT:
        return None
    checked(result, "map lookup")
    return value.raw


def map_update(map_fd: int, key: bytes, value: bytes) -> None:
    """Sets the value of a key, present before or not (BPF_ANY)."""
    checked(_library().bpf_map_update_elem(map_fd, key, value, 0), "map update")


def map_delete(map_fd: int, key: bytes) -> bool:
    """Removes a key; returns whether it was present."""
    result = _library().bpf_map_delete_elem(map_fd, key)
    if result == -errno.ENOENT:
        return False
    checked(result, "map delete")
    return True


def map_next_key(map_fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """The key behind ``key`` (the first one for None), or None at the end."""
    following = _buffer_of(key_size)()
    result = _library().bpf_map_get_next_key(map_fd, key, following)
    if result == -errno.ENOENT:
        return None
    checked(result, "map next key")
    return following.raw


def link_create(program_fd: int, target_fd: int, attach_type: int) -> int:
    """Attaches by a bpf_link (cgroups: Linux 5.7) and returns its descriptor: closing it detaches."""
    fd = checked(_library().bpf_link_create(program_fd, target_fd, attach_type, None), "bpf_link_create")
    acquired("link", fd)
    return fd


def program_attach(program_fd: int, target_fd: int, attach_type: int, flags: int = 0) -> None:
    """Attaches without a link: lasts as long as the target, or until `program_detach`."""
    checked(_library().bpf_prog_attach(program_fd, target_fd, attach_type, flags), "BPF_PROG_ATTACH")
    acquired("attachment", program_fd)


def program_detach(program_fd: int, target_fd: int, attach_type: int) -> None:
    """Takes back a `program_attach`."""
    checked(_library().bpf_prog_detach2(program_fd, target_fd, attach_type), "BPF_PROG_DETACH")


def object_ids(kind: Literal["prog", "map", "link"]) -> set[int]:
    """The ids of every BPF program, map or link on the machine, whoever owns it."""
    following = getattr(_library(), f"bpf_{kind}_get_next_id")
    found: set[int] = set()
    number = c_uint32(0)
    while (result := following(number.value, byref(number))) == 0:
        found.add(number.value)
    if result != -errno.ENOENT:
        checked(result, f"ids of every BPF {kind}")
    return found


def object_lives(kind: Literal["prog", "map", "link", "btf"], number: int) -> bool:
    """Whether the kernel has the object of that id, whoever holds it. Root alone is told; others: False."""
    following = c_uint32(0)
    result = getattr(_library(), f"bpf_{kind}_get_next_id")(number - 1, byref(following))
    return bool(result == 0 and following.value == number)


def object_name(kind: Literal["prog", "map"], fd: int) -> str:
    """What the kernel calls a program or a map, of which it keeps 15 letters."""
    info = ctypes.create_string_buffer(_PROG_INFO_SIZE)
    size = c_uint32(len(info))
    if _library().bpf_obj_get_info_by_fd(fd, info, byref(size)) != 0:
        return ""
    place = _PROG_INFO_NAME if kind == "prog" else _MapInfo.name.offset
    return info.raw[place : place + 16].partition(b"\0")[0].decode(errors="replace")


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
        acquired("ring", self.fileno())

    def _open(self) -> int:
        if self._ring is None:
            raise ValueError("the ring consumer is closed")
        return self._ring

    def consume(self) -> int:
        """Takes all that is in the ring; returns how many records."""
        return checked(_library().ring_buffer__consume(self._open()), "ring consume")

    def fileno(self) -> int:
        """A descriptor that is readable when a record has come in; owned by the consumer."""
        return int(_library().ring_buffer__epoll_fd(self._open()))

    def close(self) -> None:
        """Unmaps the ring. More than once is harmless."""
        if self._ring is not None:
            _library().ring_buffer__free(self._ring)
            self._ring = None
