"""BTF: the types of an object's maps and variables (Linux, ``Documentation/bpf/btf.rst``).

Reads the little-endian blob of the section ``.BTF``, or what libbpf makes of it when it opens an
object: only there is the offset of every variable filled in. Structs that only ring records use
are not in it (see `testbed.bpf.types.dwarf`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from testbed.bpf.types.btf_entries import QUALIFIERS, BtfError, Entries, Entry, Kind, damaged, parse_entries
from testbed.bpf.types.layout import (
    Compound,
    Enum,
    Field,
    Float,
    Int,
    Opaque,
    Pointer,
    Struct,
    Type,
    Union,
    aliased,
    array_of,
    spelled,
)
from testbed.bpf.types.scalars import DEEPEST

__all__ = ["Btf", "BtfError", "Variable", "parse_btf"]

_VARIABLES = re.compile(r"\.(bss|data|rodata)(\..*)?")
_INT_SIGNED, _INT_CHAR, _INT_BOOL = 1, 2, 4
_EXTERN = 2  # linkage of a function that is only declared
_POINTER_SIZE = 8
_KEYWORDS = {Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum", Kind.ENUM64: "enum"}


@dataclass(frozen=True)
class Variable:
    """A global variable: its ``offset`` and ``size`` in bytes in its section (``.bss``, ``.data.x``)."""

    name: str
    section: str
    offset: int
    size: int
    type: Type


def parse_btf(data: bytes) -> Btf:
    """The types of a blob; `BtfError` in one line when it is damaged."""
    return Btf(parse_entries(data))


@dataclass(frozen=True)
class Btf:
    """The types of one object, numbered from 1. Made by `parse_btf`.

    Each is made when it is first asked for; `BtfError` for one that cannot be.
    """

    _entries: Entries = field(repr=False)
    _made: dict[int, Type] = field(default_factory=dict, repr=False, compare=False)

    def type(self, type_id: int) -> Type:
        """The type of that number; 0 is void."""
        return self._type(type_id, ())

    def find_struct(self, name: str) -> Compound | None:
        """The struct or union of that name, else the one that a typedef gives that name; None without."""
        for type_id in self._structs.get(name, ()):
            found = self.type(type_id)
            if isinstance(found, Compound):
                return found
        return None

    def variables(self) -> dict[str, tuple[Variable, ...]]:
        """The object's own global variables, by section: ``.bss``, ``.data``, ``.rodata`` and ``.data.x``."""
        return {
            entry.name: tuple(self._section(entry))
            for entry in self._entries.all
            if entry.kind is Kind.DATASEC and _VARIABLES.fullmatch(entry.name)
        }

    def map_layout(self, map_name: str) -> tuple[Type | None, Type | None]:
        """The types of key and value of a map in ``.maps``; None for one that has a size alone."""
        for entry in self._entries.all:
            if entry.kind is Kind.DATASEC and entry.name == ".maps":
                for type_id, _, _ in self._entries.triples(entry):
                    if (variable := self._variable(type_id)).name == map_name:
                        return self._pointed(variable.value, "key"), self._pointed(variable.value, "value")
        return None, None

    def functions(self) -> tuple[str, ...]:
        """The functions that the object defines."""
        entries = self._entries.all
        return tuple(entry.name for entry in entries if entry.kind is Kind.FUNC and entry.vlen != _EXTERN)

    @cached_property
    def _structs(self) -> dict[str, list[int]]:
        """Which types have a name: structs and unions, and behind them typedefs."""
        found: dict[str, list[int]] = {}
        for kinds in ({Kind.STRUCT, Kind.UNION}, {Kind.TYPEDEF}):
            for type_id, entry in enumerate(self._entries.all):
                if entry.kind in kinds:
                    found.setdefault(entry.name, []).append(type_id)
        return found

    def _variable(self, type_id: int) -> Entry:
        entry = self._entries.entry(type_id)
        if entry.kind is not Kind.VAR:
            raise damaged(f"type {type_id} is in a section, and no variable but {entry.kind.name}")
        return entry

    def _section(self, section: Entry) -> Iterator[Variable]:
        for type_id, offset, size in self._entries.triples(section):
            variable = self._variable(type_id)
            kind = self.type(variable.value)
            if kind.size != size:
                raise damaged(f"variable {variable.name} has {size} bytes, its type {kind.short}")
            yield Variable(variable.name, section.name, offset, size, kind)

    def _pointed(self, map_type: int, member: str) -> Type | None:
        """What a member of a map's struct points to: ``__type(key, T)`` declares ``T *key``."""
        entry = self._entries.target(map_type)
        if entry.kind is Kind.STRUCT:
            for name, type_id, _ in self._entries.triples(entry):
                pointer = self._entries.target(type_id)
                if self._entries.name(name) == member and pointer.kind is Kind.PTR:
                    return self.type(pointer.value)
        return None

    def _type(self, type_id: int, within: tuple[int, ...]) -> Type:
        if type_id in self._made:
            return self._made[type_id]
        if type_id in within:
            raise damaged(f"type {type_id} contains itself")
        if len(within) > DEEPEST:
            raise damaged(f"type {within[0]} has more than {DEEPEST} types within one another")
        try:
            made = self._make(self._entries.entry(type_id), (*within, type_id))
        except ValueError as error:  # of layout: no such type can be
            raise damaged(f"type {type_id}: {error}") from error
        self._made[type_id] = made
        return made

    def _make(self, entry: Entry, within: tuple[int, ...]) -> Type:
        made: Type
        match entry.kind:
            case Kind.INT:
                made = _integer(entry)
            case Kind.FLOAT if entry.value <= _POINTER_SIZE:
                made = Float(entry.name, entry.value)
            case Kind.PTR:
                made = Pointer(self._spelling_of_pointer(entry), _POINTER_SIZE)
            case Kind.ARRAY:
                element, _, count = struct.unpack("<III", entry.tail)
                made = array_of(self._type(element, within), count)
            case Kind.STRUCT | Kind.UNION:
                compound = Struct if entry.kind is Kind.STRUCT else Union
                made = compound(_spelling(entry), entry.value, tuple(self._fields(entry, within)))
            case Kind.ENUM | Kind.ENUM64:
                made = self._enum(entry)
            case Kind.TYPEDEF:
                made = aliased(self._type(entry.value, within), entry.name)
            case Kind.VOLATILE | Kind.CONST | Kind.RESTRICT | Kind.TYPE_TAG | Kind.VAR:
                made = self._type(entry.value, within)
            case Kind.FLOAT | Kind.DATASEC:
                made = Opaque(entry.name, entry.value)
            case Kind.DECL_TAG:
                raise damaged(f"type {within[-1]} is no type but the tag {entry.name}")
            case _:
                made = Opaque(_spelling(entry), 0)
        return made

    def _fields(self, entry: Entry, within: tuple[int, ...]) -> Iterator[Field]:
        for name, type_id, place in self._entries.triples(entry):
            kind = self._type(type_id, within)
            offset, bits = place, 0
            if entry.flag:
                offset, bits = place & 0xFFFFFF, place >> 24
            elif (target := self._entries.target(type_id)).kind is Kind.INT:
                shift, width = target.tail[2], target.tail[0]
                if shift or width != 8 * target.value:  # how bitfields were before kind_flag (Linux 5.0)
                    offset, bits = place + shift, width
            yield Field(self._entries.name(name), kind, offset, bits or None)

    def _enum(self, entry: Entry) -> Enum:
        if entry.kind is Kind.ENUM64:
            members = [(name, high << 32 | low) for name, low, high in self._entries.triples(entry)]
            bits, signed = 64, entry.flag
        else:
            members = list(struct.iter_unpack("<II", entry.tail))
            # The flag is as new as ENUM64: without it, what an errno could be is taken for negative.
            signed = entry.flag or any(number > 0xFFFFF000 for _, number in members)
            bits = 32
        sign = 1 << bits - 1
        named = ((self._entries.name(at), (n ^ sign) - sign if signed else n) for at, n in members)
        return Enum(_spelling(entry), entry.value, signed, tuple(named))

    def _spelling_of_pointer(self, entry: Entry) -> str:
        stars = ""
        for _ in range(DEEPEST):
            if entry.kind is Kind.PTR:
                stars += "*"
            elif entry.kind not in QUALIFIERS:
                return f"{_spelling(entry)} {stars}"
            entry = self._entries.entry(entry.value)
        raise damaged(f"a pointer to more than {DEEPEST} pointers")


def _spelling(entry: Entry) -> str:
    """How a type is called that is not looked into."""
    if entry.kind is Kind.FWD:
        return spelled("union" if entry.flag else "struct", entry.name)
    if entry.kind in _KEYWORDS:
        return spelled(_KEYWORDS[entry.kind], entry.name)
    return entry.name or {Kind.FUNC_PROTO: "function"}.get(entry.kind, entry.kind.name.lower())


def _integer(entry: Entry) -> Int:
    encoding = entry.tail[3] & 0xF
    if entry.tail[0] > 8 * entry.value:
        raise ValueError(f"{entry.name}: {entry.tail[0]} bits in {entry.value} bytes")
    return Int(
        entry.name,
        entry.value,
        signed=bool(encoding & _INT_SIGNED),
        is_bool=bool(encoding & _INT_BOOL),
        is_char=bool(encoding & _INT_CHAR) or entry.name == "char",
    )
