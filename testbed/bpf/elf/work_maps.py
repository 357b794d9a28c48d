"""The maps of an object before its load: shared, inner ones made, and within memory. For the worker.

`ValueError` with words for a person where that cannot be.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from testbed.bpf.elf.libbpf_object import ObjectMap, create_map
from testbed.bpf.elf.map_memory import memory_of
from testbed.bpf.libbpf import map_info, possible_cpus

OF_MAPS = {12, 13}  # ARRAY_OF_MAPS, HASH_OF_MAPS


def _in_words(kind: int, key: int, value: int) -> str:
    from testbed.bpf.kinds import map_type_name

    return f"{map_type_name(kind)} with keys of {key} and values of {value} bytes"


def make_inner(outer: ObjectMap, shape: tuple[int, int, int, int], available: int) -> int:
    """A map as those in ``outer`` are to be: (type, key size, value size, entries). Its descriptor."""
    kind, key, value, entries = shape
    needed = memory_of(kind, key, value, entries, 0, possible_cpus())
    if needed > available:
        left = f"{available >> 20} MiB that are left"
        raise ValueError(f"the maps in {outer.name} would take {needed >> 20} MiB each, of {left}")
    try:
        return create_map(kind, key, value, entries)
    except OSError as error:
        why = errno.errorcode.get(error.errno or 0, error.errno)
        text = f"{_in_words(kind, key, value)}, {entries} entries"
        raise ValueError(f"the maps in {outer.name} cannot be: {text} ({why})") from error


def reuse(bpf_map: ObjectMap, fd: int) -> None:
    """Takes the map that an earlier object of the set has made, if it is the same."""
    ours, theirs = map_info(fd)[:3], bpf_map.shape[:3]
    if ours != theirs:
        raise ValueError(
            f"its map {bpf_map.name} is not that of the set so far:"
            f" {_in_words(*theirs)}, not {_in_words(*ours)}"
        )
    bpf_map.reuse(fd)


def memory_taken(maps: Iterable[ObjectMap], available: int) -> int:
    """Bytes that the maps will take, with their inner ones: else the kernel would end somebody for it."""
    taken = 0
    for bpf_map in maps:
        shape = bpf_map.shape
        inner = bpf_map.inner if shape[0] in OF_MAPS else None
        for kind, key, value, entries, flags in [shape, *([inner.shape] if inner else [])]:
            needed = memory_of(kind, key, value, entries, flags, possible_cpus())
            if needed > available - taken:
                raise ValueError(
                    f"the map {bpf_map.name} ({entries} entries, key {key} and value {value} bytes)"
                    f" would take {needed >> 20} MiB, of {available - taken >> 20} MiB that are left for it"
                )
            taken += needed
    return taken
