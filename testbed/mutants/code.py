"""Whether two objects are the same to the kernel and to user space, whatever their debug information."""

from __future__ import annotations

import io
from collections.abc import Iterator
from hashlib import sha256

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Symbol, SymbolTableSection

from testbed.bpf.types.btf_entries import Entries, Kind, parse_entries

_ALLOCATED = 2  # SHF_ALLOC


_Place = tuple[str, str, str, str, int, int]


def code_digest(data: bytes) -> str:
    """The same for objects with the same instructions, relocations, variables, symbols and maps.

    Lines and the names of types and of what is in them may differ.
    """
    elf = ELFFile(io.BytesIO(data))
    digest = sha256()
    for part in _parts(elf):
        digest.update(repr(part).encode())
    return digest.hexdigest()


def _parts(elf: ELFFile) -> Iterator[object]:
    sections = list(elf.iter_sections())
    names = [section.name for section in sections]
    used = {number for number, section in enumerate(sections) if section["sh_flags"] & _ALLOCATED}
    symbols = elf.get_section_by_name(".symtab")
    where: list[_Place] = []
    if isinstance(symbols, SymbolTableSection):
        where = [_symbol(symbol, names) for symbol in symbols.iter_symbols()]
    for number in sorted(used):
        section = sections[number]
        content = b"" if section["sh_type"] == "SHT_NOBITS" else section.data()
        yield section.name, section["sh_type"], section["sh_flags"], section["sh_size"], content
    for section in sections:
        if isinstance(section, RelocationSection) and section["sh_info"] in used:
            for entry in section.iter_relocations():
                yield section.name, entry["r_offset"], entry["r_info_type"], where[entry["r_info_sym"]]
    yield sorted(symbol for symbol in where if symbol[2] in {"STT_FUNC", "STT_OBJECT"})
    types = elf.get_section_by_name(".BTF")
    if types is not None:
        yield sorted(_maps(parse_entries(types.data())))


def _symbol(symbol: Symbol, names: list[str]) -> _Place:
    of = symbol.entry
    at = of["st_shndx"]
    section = names[at] if isinstance(at, int) else str(at)
    info = of["st_info"]
    # a label within a function has a number that depends on the lines before it
    name = symbol.name if info["type"] in {"STT_FUNC", "STT_OBJECT"} else ""
    return name, section, info["type"], info["bind"], of["st_value"], of["st_size"]


def _maps(entries: Entries) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """What libbpf makes a map of: numbers are the lengths of arrays, keys and values are their sizes."""
    for section in entries.all:
        if section.kind is Kind.DATASEC and section.name == ".maps":
            for variable, _, _ in entries.triples(section):
                of = entries.entry(variable)
                members = entries.triples(entries.target(of.value))
                yield (
                    of.name,
                    [(entries.name(name), _pointed_at(type_id, entries)) for name, type_id, _ in members],
                )


def _pointed_at(pointer: int, entries: Entries) -> int:
    """The length of the array, or the size of the type, that a pointer is of."""
    there = entries.target(entries.target(pointer).value)
    if there.kind is Kind.ARRAY:
        return int.from_bytes(there.tail[8:12], "little")
    return there.value
