"""Maps at a size of one's choosing, set before the load."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.bpf.elf.file import ObjectError
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.elf.words import parse_max_entries
from testbed.bpf.kinds import MapType
from testbed.errors import UsageError
from tests.objects import compiled_all, nothing_left

HASH = """
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 100);
	__type(key, __u32); __type(value, __u32); } known SEC(".maps");
"""
RING = 'struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");'


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two objects: the second one has a ring buffer, and shares the hash."""
    return [*compiled_all(tmp_path_factory.mktemp("objects"), {"one": HASH, "two": HASH + RING}).values()]


@pytest.fixture(scope="module")
def loader() -> Iterator[ObjectLoader]:
    with ObjectLoader() as made:
        yield made


@pytest.mark.parametrize(
    ("sizes", "entries"),
    [
        ({}, {"known": 100, "ring": 4096}),
        ({"known": 1}, {"known": 1, "ring": 4096}),
        ({"known": 7, "ring": 1 << 20}, {"known": 7, "ring": 1 << 20}),
        ({"ring": 5000}, {"known": 100, "ring": 8192}),  # what the kernel takes: a power of two, of pages
    ],
)
def test_sizes(
    loader: ObjectLoader, objects: list[Path], sizes: dict[str, int], entries: dict[str, int]
) -> None:
    with nothing_left(), load_objects(loader, objects, LoadOptions(max_entries=sizes)) as loaded:
        assert {name: each.max_entries for name, each in loaded.maps.items()} == entries


def test_one_entry_is_one(loader: ObjectLoader, objects: list[Path]) -> None:
    with load_objects(loader, objects, LoadOptions(max_entries={"known": 1})) as loaded:
        known = loaded.maps["known"]
        assert known.type == MapType.HASH
        known.set(bytes(4), b"1111")
        known.set(bytes(4), b"2222")
        with pytest.raises(OSError, match="E2BIG") as caught:
            known.set(b"\1" * 4, b"3333")
        assert caught.value.errno == errno.E2BIG
        assert list(known) == [bytes(4)]


def test_what_cannot_be(loader: ObjectLoader, objects: list[Path]) -> None:
    with nothing_left():
        with pytest.raises(UsageError, match=r"size of nobody: no object has .*\n  → there are known, ring$"):
            load_objects(loader, objects, LoadOptions(max_entries={"nobody": 1}))
        with pytest.raises(ObjectError, match=r"the map known \(4294967295 entries.* would take"):
            load_objects(loader, objects, LoadOptions(max_entries={"known": (1 << 32) - 1}))


@pytest.mark.parametrize("text", ["", "known", "known=", "=1", "known=x", "known=-1"])
def test_words_that_are_no_size(text: str) -> None:
    assert parse_max_entries("known=1") == ("known", 1)
    with pytest.raises(UsageError, match="it is not MAP=N"):
        parse_max_entries(text)


@pytest.mark.parametrize("text", ["known=0", "known=4294967296"])
def test_sizes_that_no_map_has(text: str) -> None:
    with pytest.raises(UsageError, match="from 1 to 4294967295"):
        parse_max_entries(text)
