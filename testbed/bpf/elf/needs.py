"""What an object needs of the kernel, and whether this one has it.

Which program calls what is read from the ELF file, as libbpf joins subprograms to a program only when
it loads it. A call leads to another function by its relocation, or by its distance within a section
(Linux, ``Documentation/bpf/llvm_reloc.rst``).
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.bpf import probe
from testbed.bpf.elf.file import elf_damage
from testbed.bpf.elf.info import ObjectInfo
from testbed.bpf.features import BTF
from testbed.bpf.kinds import MapType, ProgramKind, map_type_name
from testbed.bpf.types.btf_entries import Entries, Kind, damaged, parse_entries
from testbed.errors import TestbedError

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import Symbol

PROGRAM_TYPE, MAP_TYPE, HELPER = "program type", "map type", "helper"
KERNEL_BTF, CO_RE, KFUNC, SYMBOL = "BTF", "CO-RE", "kfunc", "kernel symbol"

_BY_BTF = {26, 27, 29}  # TRACING, STRUCT_OPS, LSM: what they attach to is a type of the kernel's BTF
_HELPER_DEFS = Path("/usr/include/bpf/bpf_helper_defs.h")
_HELPER_DEF = re.compile(r"\(\*\s*(?:const\s+)?(bpf_\w+)\)\(.*\)\s*=\s*\(void \*\)\s*(\d{1,9});")
_KALLSYMS = Path("/proc/kallsyms")
_INSN = 8  # bytes
_CALL = 0x85  # BPF_JMP | BPF_CALL: of a helper when the source register is 0, of a function when it is 1
_EXECINSTR = 4  # SHF_EXECINSTR
_INSTRUCTION = struct.Struct("<BBhi")  # struct bpf_insn
_RELOCATION = struct.Struct("<IIII")  # struct bpf_core_relo
_EXT_HEADER = struct.Struct("<HBBIIIIIII")  # of .BTF.ext, up to where the CO-RE relocations are


@dataclass(frozen=True)
class Need:
    """One thing that an object needs; ``number`` is the kernel's, or how many CO-RE relocations there are.

    ``by`` names the programs that need it, of a map type the maps. ``present`` is None where that
    cannot be asked: without root (see `can_ask`), or as libbpf knows no way.
    """

    kind: str
    name: str
    number: int | None
    by: tuple[str, ...]
    present: bool | None


@dataclass(eq=False)
class _Function:
    """The code of one function: where it is, and what it uses itself."""

    start: int
    end: int
    helpers: set[int] = field(default_factory=set)
    targets: set[tuple[int, int]] = field(default_factory=set)
    externs: set[str] = field(default_factory=set)
    relocations: int = 0


@dataclass
class _Code:
    """The functions of an object by section, and which of them each program gets to."""

    sections: dict[int, list[_Function]] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    entries: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def at(self, section: int, offset: int) -> _Function | None:
        """The function that has this byte of a section."""
        functions = self.sections.get(section, ())
        return next((each for each in functions if each.start <= offset < each.end), None)

    def reached(self, section: str, program: str) -> list[_Function]:
        """The functions that a program may run, its own first."""
        found: list[_Function] = []
        ahead = [self.entries[section, program]] if (section, program) in self.entries else []
        while ahead:
            function = self.at(*ahead.pop())
            if function is not None and function not in found:
                found.append(function)
                ahead += sorted(function.targets)
        return found


_Reached = Mapping[str, list[_Function]]  # by the name of a program


@cache
def helper_names() -> Mapping[int, str]:
    """The names of helpers by number, as far as libbpf's headers are installed."""
    if not _HELPER_DEFS.is_file():
        return {}
    text = _HELPER_DEFS.read_text(encoding="utf-8")
    return {int(number): name for name, number in _HELPER_DEF.findall(text)}


def helper_name(number: int) -> str:
    """``bpf_map_lookup_elem``; ``helper 1`` where its name is not known."""
    return helper_names().get(number, f"helper {number}")


def can_ask() -> bool:
    """Whether the kernel answers us: it must own up to types that every kernel has, for root alone."""
    return probe.has_program_type(ProgramKind.XDP.prog_type) and probe.has_map_type(MapType.LRU_HASH)


def needs_of(info: ObjectInfo, data: bytes) -> tuple[Need, ...]:
    """What the object needs, ``data`` being its file; what is declared weak, it can do without.

    `ObjectError` for ELF or BTF that is damaged.
    """
    try:
        code, names = _read(data)
    except TestbedError:
        raise
    except Exception as error:
        raise elf_damage(info.path, error) from error
    reached = {each.name: code.reached(each.section, each.name) for each in info.programs}
    ask = can_ask()
    return (*_types(info, ask), *_helpers(info, reached, ask), *_of_kernel(info, reached, names))


def _asked(ask: bool, has: Callable[..., bool], *numbers: int) -> bool | None:
    try:
        return has(*numbers) if ask else None
    except OSError:  # EOPNOTSUPP: libbpf knows no way to ask for this one
        return None


def _gather(pairs: Iterable[tuple[int, str]]) -> dict[int, tuple[str, ...]]:
    """The names of each number, by number."""
    found: dict[int, tuple[str, ...]] = {}
    for number, name in pairs:
        found[number] = (*found.get(number, ()), name)
    return dict(sorted(found.items()))


def _types(info: ObjectInfo, ask: bool) -> Iterator[Need]:
    of_programs = _gather((each.prog_type, each.name) for each in info.programs if each.prog_type)
    for number, by in of_programs.items():
        present = _asked(ask, probe.has_program_type, number)
        yield Need(PROGRAM_TYPE, probe.program_type_name(number), number, by, present)
    of_maps = _gather((each.map_type, each.name) for each in info.maps if not each.internal)
    for number, by in of_maps.items():
        yield Need(MAP_TYPE, map_type_name(number), number, by, _asked(ask, probe.has_map_type, number))


def _helpers(info: ObjectInfo, reached: _Reached, ask: bool) -> Iterator[Need]:
    """One need a helper; more when only some of the program types may call it."""
    found: dict[tuple[int, bool | None], tuple[str, ...]] = {}
    for program in info.programs:
        called = set[int]().union(*(each.helpers for each in reached[program.name]))
        known = ask and bool(_asked(ask, probe.has_program_type, program.prog_type))
        for number in called:
            present = _asked(known, probe.has_helper, program.prog_type, number, program.attach_type)
            found[number, present] = (*found.get((number, present), ()), program.name)
    for (number, present), by in sorted(found.items(), key=lambda item: item[0][0]):
        yield Need(HELPER, helper_name(number), number, by, present)


def _of_kernel(info: ObjectInfo, reached: _Reached, externs: Mapping[str, str]) -> Iterator[Need]:
    """The kernel's BTF, and what is looked up in it or among its symbols."""
    relocated = tuple(name for name, run in reached.items() if any(each.relocations for each in run))
    used = {name: set[str]().union(*(each.externs for each in run)) for name, run in reached.items()}
    wanted = {name: tuple(each for each in used if name in used[each]) for name in sorted(externs)}
    looking = {each.name for each in info.programs if each.prog_type in _BY_BTF}
    looking.update(relocated, *wanted.values())
    if looking:
        by = tuple(each.name for each in info.programs if each.name in looking)
        yield Need(KERNEL_BTF, str(BTF), None, by, BTF.exists())
    if relocated:
        count = sum(each.relocations for each in set[_Function]().union(*reached.values()))
        yield Need(CO_RE, f"{count} relocation{'' if count == 1 else 's'}", count, relocated, BTF.exists())
    symbols = _kernel_symbols(wanted)
    for name, by in wanted.items():
        if by:
            yield Need(externs[name], name, None, by, _listed(name, externs[name], symbols))


def _listed(name: str, kind: str, symbols: set[str] | None) -> bool | None:
    if symbols is None or (kind == SYMBOL and name not in symbols):
        return None  # few kernels list their variables
    return name in symbols


def _kernel_symbols(wanted: Iterable[str]) -> set[str] | None:
    """Those of the names that the kernel and its modules have; None where it does not tell."""
    names = set(wanted)
    if not names:
        return names
    try:
        with _KALLSYMS.open(encoding="ascii", errors="replace") as lines:
            return names.intersection(line.split()[2] for line in lines)
    except OSError:
        return None


def _read(data: bytes) -> tuple[_Code, dict[str, str]]:
    """The code, and the kinds of what it looks up in the kernel by name."""
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(io.BytesIO(data))
    code = _functions(elf)
    section = elf.get_section_by_name(".BTF")
    if section is None:
        return code, {}
    entries = parse_entries(section.data())
    extension = elf.get_section_by_name(".BTF.ext")
    for name, offset in _core_relocations(extension.data(), entries) if extension else ():
        for number in code.numbers.get(name, ()):
            if function := code.at(number, offset):
                function.relocations += 1
    return code, dict(_externs(entries))


def _externs(entries: Entries) -> Iterator[tuple[str, str]]:
    """The functions and variables that BTF declares to be the kernel's."""
    for entry in entries.all:
        if entry.kind is Kind.DATASEC and entry.name == ".ksyms":
            for type_id, _, _ in entries.triples(entry):
                extern = entries.entry(type_id)
                yield extern.name, KFUNC if extern.kind is Kind.FUNC else SYMBOL


def _core_relocations(data: bytes, entries: Entries) -> Iterator[tuple[str, int]]:
    """The section and offset of each instruction that is to be adapted to the kernel's own structs."""
    header = int.from_bytes(data[4:8], "little")
    if header < _EXT_HEADER.size:
        return  # of a clang before 10, without CO-RE
    start, size = _EXT_HEADER.unpack_from(data)[-2:]
    part = data[header + start : header + start + size]
    (record,) = struct.unpack_from("<I", part) if part else (0,)
    at = 4
    while at < len(part):
        name, count = struct.unpack_from("<II", part, at)
        at += 8
        if record < _RELOCATION.size or at + record * count > len(part):
            raise damaged("its CO-RE relocations are cut off")
        for _ in range(count):
            yield entries.name(name), _RELOCATION.unpack_from(part, at)[0]
            at += record


def _functions(elf: ELFFile) -> _Code:
    """The functions of all executable sections, decoded."""
    from elftools.elf.relocation import RelocationSection
    from elftools.elf.sections import SymbolTableSection

    code = _Code()
    sections = list(elf.iter_sections())
    (symbols,) = (list(each.iter_symbols()) for each in sections if isinstance(each, SymbolTableSection))
    executable = {number: each for number, each in enumerate(sections) if each["sh_flags"] & _EXECINSTR}
    relocations: dict[int, dict[int, Symbol]] = {number: {} for number in executable}
    for section in sections:
        if isinstance(section, RelocationSection) and section["sh_info"] in executable:
            for each in section.iter_relocations():
                relocations[section["sh_info"]][each["r_offset"]] = symbols[each["r_info_sym"]]
    for number, section in executable.items():
        code.numbers.setdefault(section.name, []).append(number)
        content = section.data()
        for symbol in symbols:
            if symbol["st_shndx"] == number and symbol["st_info"]["type"] == "STT_FUNC":
                function = _Function(symbol["st_value"], symbol["st_value"] + symbol["st_size"])
                _decode(function, number, content, relocations[number])
                code.sections.setdefault(number, []).append(function)
                code.entries[section.name, symbol.name] = (number, function.start)
    return code


def _decode(function: _Function, section: int, content: bytes, symbols: Mapping[int, Symbol]) -> None:
    """Notes what a function calls and refers to."""
    for at in range(function.start, function.end, _INSN):
        opcode, registers, _, immediate = _INSTRUCTION.unpack_from(content, at)
        symbol = symbols.get(at)
        distance = _INSN * (immediate + 1) if opcode == _CALL else immediate
        if symbol is None:
            if opcode == _CALL and registers >> 4 == 0:
                function.helpers.add(immediate)
            elif opcode == _CALL and registers >> 4 == 1:
                function.targets.add((section, at + distance))
        elif symbol["st_shndx"] == "SHN_UNDEF":
            if symbol["st_info"]["bind"] != "STB_WEAK":
                function.externs.add(symbol.name)
        elif isinstance(symbol["st_shndx"], int):
            function.targets.add((symbol["st_shndx"], symbol["st_value"] + distance))
