"""What the running kernel has: types of programs and maps, helpers. Asking needs root."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache

from testbed.bpf.libbpf import Signature, checked, open_library

_LOG_BYTES = 1 << 16
# Of a helper that does not exist; of one that the type may not call, in older words and in those of
# Linux 6.18, which libbpf's own probe takes for a yes (seen in libbpf 1.1).
_REFUSALS = (b"invalid func ", b"unknown func ", b"program of this type cannot use helper ")


class _LoadOptions(ctypes.Structure):
    """The leading part of ``struct bpf_prog_load_opts`` (libbpf 1.0); ``sz`` tells libbpf so."""

    _fields_ = (
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_int),
        ("_numbers", c_uint32 * 7),  # BTF, flags, device, kernel version, what it attaches to
        ("_pointers", c_uint64 * 5),  # descriptors, information on functions and lines
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_void_p),
    )


_CALLS: tuple[Signature, ...] = (
    ("bpf_prog_load", c_int, (c_int, c_char_p, c_char_p, c_void_p, c_size_t, c_void_p)),
    ("libbpf_probe_bpf_prog_type", c_int, (c_int, c_void_p)),
    ("libbpf_probe_bpf_map_type", c_int, (c_int, c_void_p)),
    ("libbpf_bpf_prog_type_str", c_char_p, (c_int,)),
)


@cache
def _library() -> ctypes.CDLL:
    return open_library(_CALLS)


def has_helper(prog_type: int, helper: int, attach_type: int = 0) -> bool:
    """Whether the kernel lets a program of this type call the helper (``enum bpf_func_id``).

    For some types it depends on the attach type. `OSError` with EOPNOTSUPP where the verifier is not
    reached: a type that the kernel lacks, or one that needs something to attach to.
    """
    log = ctypes.create_string_buffer(_LOG_BYTES)
    options = _LoadOptions(
        sz=ctypes.sizeof(_LoadOptions),
        expected_attach_type=attach_type,
        log_level=1,
        log_size=len(log),
        log_buf=ctypes.addressof(log),
    )
    code = struct.pack("<BBhiBBhi", 0x85, 0, 0, helper, 0x95, 0, 0, 0)  # call; exit
    fd = _library().bpf_prog_load(prog_type, None, b"GPL", code, 2, byref(options))
    if fd >= 0:
        os.close(fd)
    elif not log.value:
        raise OSError(errno.EOPNOTSUPP, f"helper probe: {os.strerror(-fd)}")
    return not any(words in log.value for words in _REFUSALS)


def has_program_type(number: int) -> bool:
    """Whether the kernel takes programs of a type; `OSError` for one that libbpf cannot ask for."""
    return checked(_library().libbpf_probe_bpf_prog_type(number, None), "program type probe") == 1


def has_map_type(number: int) -> bool:
    """Whether the kernel makes maps of a type; `OSError` for one that libbpf cannot ask for."""
    return checked(_library().libbpf_probe_bpf_map_type(number, None), "map type probe") == 1


def program_type_name(number: int) -> str:
    """``sock_ops``, ``cgroup_sock_addr``; ``type 99`` for one that libbpf has no name for."""
    name: bytes | None = _library().libbpf_bpf_prog_type_str(number)
    return name.decode() if name else f"type {number}"
