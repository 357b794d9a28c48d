"""Map values that a program changes under a lock (``struct bpf_spin_lock``), read under it too."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_uint64, c_void_p
from functools import cache

from testbed.bpf.libbpf import Signature, checked, open_library
from testbed.bpf.maps import Map

_LOCK = 4  # BPF_F_LOCK, Linux 5.1
_CALLS: tuple[Signature, ...] = (("bpf_map_lookup_elem_flags", c_int, (c_int, c_void_p, c_void_p, c_uint64)),)


@cache
def _library() -> ctypes.CDLL:
    return open_library(_CALLS)


def locked_value(source: Map, key: bytes) -> bytes:
    """The value of a key that is there: no program is between two changes of it. The lock reads as 0.

    `OSError` as of the kernel: EINVAL where the map's values have no lock.
    """
    value = ctypes.create_string_buffer(source.value_size)
    checked(_library().bpf_map_lookup_elem_flags(source.fd, key, value, _LOCK), "locked map lookup")
    return value.raw
