"""All that is in a small map, in one call (BPF_MAP_LOOKUP_BATCH, Linux 5.6): for who looks often."""

from __future__ import annotations

import ctypes
import errno
from ctypes import byref, c_int, c_uint32, c_void_p
from functools import cache

from testbed.bpf.kinds import MapType
from testbed.bpf.libbpf import checked, open_library
from testbed.bpf.maps import Map

_HASHES = {MapType.HASH, MapType.LRU_HASH}
_WITHOUT = {-errno.EOPNOTSUPP, -errno.EINVAL, -524}  # 524: ENOTSUPP of the kernel's own


@cache
def _library() -> ctypes.CDLL:
    words = (c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)
    return open_library((("bpf_map_lookup_batch", c_int, words),))


class MapReader:
    """Reads a map as a whole, up to ``most`` keys."""

    def __init__(self, each: Map, most: int) -> None:
        self._map = each
        self._most = most
        self._batches = each.type in _HASHES
        self._keys = ctypes.create_string_buffer(each.key_size * most)
        self._values = ctypes.create_string_buffer(each.value_size * most)
        self._next = ctypes.create_string_buffer(max(each.key_size, 8))
        self._count = c_uint32()

    def read(self) -> dict[bytes, bytes] | None:
        """Keys with their values; None where there are more. A sockhash's values are empty."""
        if self._batches:
            found = self._batch()
            if self._batches:
                return found
        return contents(self._map, self._most)

    def _batch(self) -> dict[bytes, bytes] | None:
        self._count.value = self._most
        result = _library().bpf_map_lookup_batch(
            self._map.fd, None, self._next, self._keys, self._values, byref(self._count), None
        )
        if result in _WITHOUT:
            self._batches = False
            return None
        if result in {0, -errno.ENOSPC}:  # there is more than room
            return None
        if result != -errno.ENOENT:  # which says that this was all
            checked(result, "map lookup batch")
        key, value = self._map.key_size, self._map.value_size
        count = self._count.value
        if not count:
            return {}
        keys, values = self._keys.raw, self._values.raw
        return {
            keys[place * key : (place + 1) * key]: values[place * value : (place + 1) * value]
            for place in range(count)
        }


def contents(each: Map, most: int | None = None) -> dict[bytes, bytes] | None:
    """What is in a map, key by key; None where that is more than ``most`` of them.

    A key that goes meanwhile is left out. The values of a sockhash are not for user space: empty.
    """
    found: dict[bytes, bytes] = {}
    for key in each:
        if most is not None and len(found) >= most:
            return None
        value = b"" if each.keys_only else each.get(key)
        if value is not None:
            found[key] = value
    return found
