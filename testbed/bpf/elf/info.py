"""What is in an ELF object: programs, maps, variables. As libbpf reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from testbed.bpf.elf.file import read_object
from testbed.bpf.elf.request import MapReply, ObjectReply, ProgramReply
from testbed.bpf.elf.symbols import sections_and_symbols
from testbed.bpf.kinds import ProgramKind, kind_of, map_type_name
from testbed.bpf.types.btf import Btf, Variable, parse_btf
from testbed.bpf.types.layout import Type


def section_of(internal_map: str) -> str:
    """``.bss``, ``.data``, … libbpf puts the object's name before it."""
    return "." + internal_map.partition(".")[2]


@dataclass(frozen=True)
class ProgramInfo:
    """``kind`` is None for what a lab cannot attach, ``prog_type`` 0 where libbpf knows no such section.

    ``helpers`` are numbers of ``enum bpf_func_id``; those that only subprograms call are not among
    them before a load.
    """

    name: str
    section: str
    kind: ProgramKind | None
    prog_type: int
    attach_type: int
    instructions: int
    helpers: tuple[int, ...]

    @classmethod
    def of(cls, reply: ProgramReply) -> ProgramInfo:
        return cls(
            reply["name"],
            reply["section"],
            kind_of(reply["prog_type"], reply["attach_type"], reply["section"]),
            reply["prog_type"],
            reply["attach_type"],
            reply["instructions"],
            tuple(reply["helpers"]),
        )


@dataclass(frozen=True)
class MapInfo:
    """Sizes in bytes. ``internal`` maps hold the object's variables and are never shared.

    ``inner`` is the shape of the maps in a map of maps: (type, key size, value size, entries, flags).
    """

    name: str
    map_type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    internal: bool
    inner: tuple[int, int, int, int, int] | None

    @classmethod
    def of(cls, reply: MapReply) -> MapInfo:
        inner = reply["inner"]
        return cls(
            reply["name"],
            *reply["shape"],
            reply["internal"],
            (inner[0], inner[1], inner[2], inner[3], inner[4]) if inner else None,
        )

    @property
    def type_name(self) -> str:
        return map_type_name(self.map_type)

    @property
    def section(self) -> str:
        """Of an internal map."""
        return section_of(self.name)


@dataclass(frozen=True)
class ObjectInfo:
    """One object. ``said`` is what libbpf remarked on reading it."""

    path: Path
    reply: ObjectReply = field(repr=False, hash=False)
    btf_blob: bytes = field(repr=False)

    @cached_property
    def programs(self) -> tuple[ProgramInfo, ...]:
        return tuple(ProgramInfo.of(program) for program in self.reply["programs"])

    @cached_property
    def maps(self) -> tuple[MapInfo, ...]:
        return tuple(MapInfo.of(each) for each in self.reply["maps"])

    @property
    def said(self) -> str:
        return self.reply["said"]

    @cached_property
    def btf(self) -> Btf | None:
        """None where the object has none. `BtfError` when it is damaged."""
        return parse_btf(self.btf_blob) if self.btf_blob else None

    def map_types(self, name: str) -> tuple[Type | None, Type | None]:
        """The types of a map's key and value; None for what has no BTF."""
        return self.btf.map_layout(name) if self.btf else (None, None)

    def all_variables(self) -> list[Variable]:
        """The variables that the BTF knows; without BTF those that have symbols, as bytes."""
        if self.btf is None:
            if not any(each.internal for each in self.maps):
                return []
            found: Iterable[Variable] = sections_and_symbols(read_object(self.path))[1]
        else:
            found = chain.from_iterable(self.btf.variables().values())
        return [variable for variable in found if "." not in variable.name]  # x.y: within the function x
