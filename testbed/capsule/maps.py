"""What is in the maps of a set, as values that JSON has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.bpf.kinds import MapType, map_type_name
from testbed.bpf.maps import Map
from testbed.errors import errno_name

_MOST = 5000
_NO_KEYS = {MapType.RINGBUF, MapType.SK_STORAGE, MapType.PROG_ARRAY, MapType.PERF_EVENT_ARRAY}
"""Rings are read by taking, storage by socket: nobody can walk them."""


def dump_maps(maps: Mapping[str, Map]) -> dict[str, object]:
    """Each map by name: its type, sizes, and ``entries`` as [key, value] of its C types.

    Bytes are hexadecimal. Of more than 5000 entries the first are told, with ``cut``. An array's
    entries that are all zero are left out. ``error`` is there in place of what could not be read.
    """
    return {name: _dumped(each) for name, each in sorted(maps.items())}


def _dumped(each: Map) -> dict[str, object]:
    told: dict[str, object] = {
        "type": map_type_name(each.type),
        "key_size": each.key_size,
        "value_size": each.value_size,
        "max_entries": each.max_entries,
    }
    if each.type in _NO_KEYS:
        return told
    entries: list[object] = []
    told["entries"] = entries
    try:
        for key in each:
            value = None if each.keys_only else each.get(key)
            if value is not None and not any(value) and "ARRAY" in MapType(each.type).name:
                continue
            if len(entries) == _MOST:
                told["cut"] = True
                break
            entries.append(
                [_plain(_typed(each, 0, key)), _plain(None if value is None else _typed(each, 1, value))]
            )
    except (OSError, ValueError) as error:
        told["error"] = errno_name(error.errno or 0) if isinstance(error, OSError) else str(error)
    return told


def _typed(each: Map, which: int, data: bytes) -> object:
    kind = each.types[which]
    if kind is None:
        return data.hex()
    if which and each.per_cpu:
        step = len(data) // each.cpus
        return [_plain(kind.decode(data[at : at + kind.size])) for at in range(0, len(data), step)]
    return _plain(kind.decode(data))


def _plain(value: Any) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
