"""How BTF is stored (Linux, ``Documentation/bpf/btf.rst``): a header, entries by number, names."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from testbed.bpf.types.scalars import DEEPEST
from testbed.errors import ProgramError

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_HEAD = struct.Struct("<III")  # of each entry: name, info, size or type


class BtfError(ProgramError):
    """BTF that cannot be: damaged, or of another machine."""


def damaged(why: str) -> BtfError:
    """The error of BTF that cannot be read, in one line."""
    return BtfError("read the BTF", why)


class Kind(IntEnum):
    """BTF_KIND_…; the newest is ENUM64 (Linux 6.0)."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# The bytes behind an entry's head: once, and for each of its elements.
_TAILS = {
    **dict.fromkeys(Kind, (0, 0)),
    **dict.fromkeys((Kind.INT, Kind.VAR, Kind.DECL_TAG), (4, 0)),
    Kind.ARRAY: (12, 0),
    **dict.fromkeys((Kind.STRUCT, Kind.UNION, Kind.DATASEC, Kind.ENUM64), (0, 12)),
    **dict.fromkeys((Kind.ENUM, Kind.FUNC_PROTO), (0, 8)),
}
_KINDS = {int(kind): (kind, *_TAILS[kind]) for kind in Kind if kind is not Kind.VOID}
QUALIFIERS = frozenset({Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})


class Entry(NamedTuple):
    """One type: ``flag`` is its kind_flag, ``value`` its size or the type that it refers to."""

    kind: Kind
    name: str
    flag: bool
    vlen: int
    value: int
    tail: bytes


@dataclass(frozen=True)
class Entries:
    """Everything of one blob; number 0 is void. What is asked for and is not there is a `BtfError`."""

    all: tuple[Entry, ...]
    names: bytes

    def entry(self, type_id: int) -> Entry:
        """The entry of that number."""
        if not 0 <= type_id < len(self.all):
            raise damaged(f"there is no type {type_id}, the last is {len(self.all) - 1}")
        return self.all[type_id]

    def target(self, type_id: int) -> Entry:
        """The entry behind qualifiers and typedefs."""
        for _ in range(DEEPEST):
            entry = self.entry(type_id)
            if entry.kind is not Kind.TYPEDEF and entry.kind not in QUALIFIERS:
                return entry
            type_id = entry.value
        raise damaged(f"type {type_id} is behind more than {DEEPEST} typedefs")

    def name(self, offset: int) -> str:
        """The name at an offset in the names; an empty one for none."""
        return _name(self.names, offset)

    def triples(self, entry: Entry) -> Iterator[tuple[int, int, int]]:
        """The three numbers of each of its elements (STRUCT, UNION, DATASEC, ENUM64)."""
        yield from struct.iter_unpack("<III", entry.tail)


def _name(names: bytes, offset: int) -> str:
    if offset >= len(names):
        raise damaged(f"a name at {offset}, where the names end at {len(names)}")
    name = names[offset : names.index(0, offset)].decode(errors="backslashreplace")
    if not name.isprintable():
        raise damaged(f"a name that is no text: {name!r:.40}")
    return name


def parse_entries(data: bytes) -> Entries:
    """The entries of a blob."""
    types, names = _sections(data)
    if names[:1] != b"\0" or names[-1:] != b"\0":
        raise damaged("its names do not begin and end with a zero byte")
    found = [Entry(Kind.VOID, "void", False, 0, 0, b"")]
    at = 0
    while at < len(types):
        if at + _HEAD.size > len(types):
            raise damaged(f"type {len(found)} is cut off")
        name, info, value = _HEAD.unpack_from(types, at)
        number, count = info >> 24 & 0x1F, info & 0xFFFF
        if number not in _KINDS:
            raise damaged(f"type {len(found)} is of the unknown kind {number}")
        kind, once, each = _KINDS[number]
        at += _HEAD.size
        tail = types[at : at + once + each * count]
        if len(tail) != once + each * count:
            raise damaged(f"type {len(found)} is cut off")
        at += len(tail)
        found.append(Entry(kind, _name(names, name), bool(info >> 31), count, value, tail))
    return Entries(tuple(found), names)


def _sections(data: bytes) -> tuple[bytes, bytes]:
    """The bytes of the types and of the names."""
    if len(data) < _HEADER.size:
        raise damaged(f"{len(data)} bytes are less than its header")
    magic, version, _, header, type_at, type_size, name_at, name_size = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        swapped = magic == int.from_bytes(_MAGIC.to_bytes(2, "big"), "little")
        raise damaged("it is big-endian" if swapped else f"its magic is {magic:#06x}, not {_MAGIC:#06x}")
    if version != 1:
        raise damaged(f"version {version} is not known, only 1")
    for what, at, size in (("types", type_at, type_size), ("names", name_at, name_size)):
        if header < _HEADER.size or header + at + size > len(data):
            raise damaged(f"its {what} ({size} bytes at {header + at}) are not in its {len(data)} bytes")
    types_start, names_start = header + type_at, header + name_at
    return data[types_start : types_start + type_size], data[names_start : names_start + name_size]
