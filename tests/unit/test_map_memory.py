"""What maps take, by our estimate and by the kernel's own account (``memlock`` in fdinfo, Linux 6.4)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from testbed.bpf.elf.libbpf_object import create_map
from testbed.bpf.elf.map_memory import available_memory, memory_of
from testbed.bpf.kinds import MapType
from testbed.bpf.libbpf import possible_cpus


def accounted(fd: int) -> int:
    text = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")
    (found,) = re.findall(r"^memlock:\s*(\d+)$", text, re.MULTILINE)
    return int(found)


@pytest.mark.parametrize(
    ("kind", "key", "value", "entries"),
    [
        (MapType.HASH, 4, 8, 100_000),
        (MapType.HASH, 16, 4, 8192),
        (MapType.HASH, 4, 4096, 1000),
        (MapType.LRU_HASH, 36, 64, 10_000),
        (MapType.PERCPU_HASH, 4, 256, 1000),
        (MapType.LRU_PERCPU_HASH, 4, 8, 10_000),
        (MapType.ARRAY, 4, 1, 1000),
        (MapType.ARRAY, 4, 4096, 1000),
        (MapType.PERCPU_ARRAY, 4, 8, 10_000),
        (MapType.RINGBUF, 0, 0, 1 << 20),
        (MapType.USER_RINGBUF, 0, 0, 1 << 20),
        (MapType.QUEUE, 0, 24, 10_000),
        (MapType.STACK, 0, 24, 10_000),
        (MapType.STACK_TRACE, 4, 1016, 1000),
        (MapType.BLOOM_FILTER, 0, 8, 100_000),
        (MapType.SOCKHASH, 36, 4, 100_000),
        (MapType.SOCKMAP, 4, 4, 100_000),
        (MapType.PROG_ARRAY, 4, 4, 100_000),
    ],
)
def test_the_estimate(kind: MapType, key: int, value: int, entries: int) -> None:
    fd = create_map(kind, key, value, entries)
    try:
        estimate = memory_of(kind, key, value, entries, 0, possible_cpus())
        assert 0.7 <= estimate / accounted(fd) <= 2.05
    finally:
        os.close(fd)


def test_a_map_that_grows_begins_with_its_buckets() -> None:
    assert memory_of(MapType.HASH, 4, 1 << 20, 1 << 16, 1, 2) == 16 << 16
    assert memory_of(MapType.HASH, 4, 1 << 20, 1 << 16, 0, 2) > 1 << 36
    assert memory_of(MapType.HASH, 0, 0, 0, 0, 2) == 16, "a damaged object may say so"


def test_what_is_available_is_part_of_what_there_is() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 << 20 < available_memory() <= pages // 2
