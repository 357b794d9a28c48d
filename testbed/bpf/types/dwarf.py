"""DWARF: the structs that BTF does not have, such as those of ring records (DWARF 2 to 5).

Relocations are not applied: those of BPF objects (``REL``) hold their offset in place and refer to
sections, which begin at 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

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
from testbed.errors import ProgramError, errno_name

if TYPE_CHECKING:
    from elftools.dwarf.compileunit import CompileUnit
    from elftools.dwarf.die import DIE
    from elftools.elf.elffile import ELFFile

_COMPOUNDS = {"DW_TAG_structure_type": "struct", "DW_TAG_union_type": "union"}
_KEYWORDS = _COMPOUNDS | {"DW_TAG_enumeration_type": "enum"}
_QUALIFIERS = {f"DW_TAG_{name}_type" for name in ("const", "volatile", "restrict", "atomic")}
_ENUMERATOR = "DW_TAG_enumerator"
_PLUS_UCONST = 0x23  # DW_OP_plus_uconst: what follows is the offset, as a ULEB128
_ATE_BOOLEAN, _ATE_FLOAT = 2, 4
_ATE_FLOATS = {3, 4, 9, 15}  # also complex, imaginary and decimal ones
_ATE_SIGNED = {5, 6}  # signed, signed_char
_POINTER_SIZE = 8


def struct_layouts(path: Path, names: Collection[str]) -> dict[str, Compound]:
    """The structs and unions of those names (or so named by a typedef) in the DWARF of an object.

    Names that it does not define are left out; all are where there is no DWARF. `ProgramError` for a
    file that cannot be read or is damaged.
    """
    what = f"read the DWARF of {path.name}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProgramError(what, errno_name(error.errno or 0)) from error
    try:
        return _layouts(data, names)
    except Exception as error:  # pyelftools meets damage with whatever it stumbles over
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ProgramError(what, f"{reason:.300}".rstrip(": ")) from error


def _layouts(data: bytes, names: Collection[str]) -> dict[str, Compound]:
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(BytesIO(data))
    if not elf.little_endian:
        raise ValueError("it is big-endian")
    if not any(_is_named(name, data, elf) for name in names):
        return {}  # most objects of a set: their entries need not be read one by one
    reader = _Reader()
    structs: dict[str, DIE] = {}
    typedefs: dict[str, DIE] = {}
    for unit in elf.get_dwarf_info(relocate_dwarf_sections=False, follow_links=False).iter_CUs():
        for die in reader.walk(unit):
            if die.tag in _COMPOUNDS and not _flag(die, "declaration") and _name(die) in names:
                structs.setdefault(_name(die), die)
            elif die.tag == "DW_TAG_typedef" and _name(die) in names:
                typedefs.setdefault(_name(die), die)
    found = {name: reader.type(die) for name, die in (typedefs | structs).items()}
    return {name: made for name, made in found.items() if isinstance(made, Compound)}


def _is_named(name: str, data: bytes, elf: ELFFile) -> bool:
    """Whether a name can be in the debug information: there it stands as it is, with a zero behind it."""
    return name.encode() + b"\0" in data or any(section.compressed for section in elf.iter_sections())


@dataclass(frozen=True)
class _Reader:
    """The types of an object by the offset of their entries, and whose parts are which entries."""

    _parts: dict[int, list[DIE]] = field(default_factory=dict)
    _made: dict[int, Type] = field(default_factory=dict)

    def walk(self, unit: CompileUnit) -> Iterator[DIE]:
        """Every entry of a unit, in the order of the file.

        pyelftools' own walk follows DW_AT_sibling, also where damage leads it in circles.
        """
        at, end = unit.cu_die_offset, unit.cu_offset + unit.size
        parents: list[list[DIE]] = [[]]
        while at < end and parents:
            die = unit.get_DIE_from_refaddr(at)
            at += die.size
            if die.is_null():
                parents.pop()
                continue
            parents[-1].append(die)
            if die.has_children:
                parents.append(self._parts.setdefault(die.offset, []))
            yield die

    def type(self, die: DIE | None, depth: int = 0) -> Type:
        """The type that an entry describes; without one it is void."""
        if die is None:
            return Opaque("void", 0)
        if die.offset not in self._made:
            if depth > DEEPEST:  # or one within itself
                raise ValueError(f"more than {DEEPEST} types within one another")
            self._made[die.offset] = self._make(die, depth + 1)
        return self._made[die.offset]

    def _make(self, die: DIE, depth: int) -> Type:
        made: Type
        match die.tag:
            case "DW_TAG_base_type":
                made = _base(die)
            case "DW_TAG_pointer_type":
                made = Pointer(_spelling_of_pointer(die), _POINTER_SIZE)
            case "DW_TAG_typedef":
                made = aliased(self.type(_target(die), depth), _name(die))
            case "DW_TAG_array_type":
                made = self.type(_target(die), depth)
                for count in reversed([_count(part) for part in self._of(die, "DW_TAG_subrange_type")]):
                    made = array_of(made, count)
            case "DW_TAG_enumeration_type":
                made = self._enum(die)
            case "DW_TAG_structure_type" | "DW_TAG_union_type" if not _flag(die, "declaration"):
                fields = tuple(self._field(part, depth) for part in self._of(die, "DW_TAG_member"))
                compound = Struct if die.tag == "DW_TAG_structure_type" else Union
                made = compound(_spelling(die), _number(die, "byte_size"), fields)
            case tag if tag in _QUALIFIERS:
                made = self.type(_target(die), depth)
            case _:
                made = Opaque(_spelling(die), _number(die, "byte_size", 0))
        return made

    def _of(self, die: DIE, tag: str) -> list[DIE]:
        return [part for part in self._parts.get(die.offset, ()) if part.tag == tag]

    def _field(self, member: DIE, depth: int) -> Field:
        kind = self.type(_target(member), depth)
        place = 8 * _number(member, "data_member_location", 0)
        bits = _number(member, "bit_size", 0) or None
        if bits is not None:
            if _flag(member, "bit_offset"):  # DWARF 2 and 3: counted from the unit's highest bit
                unit = 8 * _number(member, "byte_size", kind.size)
                place += unit - _number(member, "bit_offset") - bits
            else:
                place += _number(member, "data_bit_offset", 0)
        return Field(_name(member), kind, place, bits)

    def _enum(self, die: DIE) -> Enum:
        size = _number(die, "byte_size")
        members = [(_name(part), _number(part, "const_value")) for part in self._of(die, _ENUMERATOR)]
        underlying = self.type(_target(die))
        signed = underlying.signed if isinstance(underlying, Int) else any(n < 0 for _, n in members)
        sign, mask = 1 << 8 * size - 1, (1 << 8 * size) - 1
        named = ((name, ((n & mask) ^ sign) - sign if signed else n & mask) for name, n in members)
        return Enum(_spelling(die), size, signed, tuple(named))


def _flag(die: DIE, attribute: str) -> bool:
    return f"DW_AT_{attribute}" in die.attributes


def _number(die: DIE, attribute: str, default: int | None = None) -> int:
    found = die.attributes.get(f"DW_AT_{attribute}")
    value = default if found is None else found.value
    if isinstance(value, list) and value[:1] == [_PLUS_UCONST]:  # how DWARF 2 and 3 say where a field is
        value = sum((byte & 0x7F) << 7 * at for at, byte in enumerate(value[1:]))
    if not isinstance(value, int):
        raise TypeError(f"{_spelling(die)} has no number as its {attribute}")
    return value


def _name(die: DIE) -> str:
    found = die.attributes.get("DW_AT_name")
    name = found.value.decode() if found is not None else ""
    if not name.isprintable():
        raise ValueError(f"a name that is no text: {name!r:.40}")
    return str(name)


def _target(die: DIE) -> DIE | None:
    return die.get_DIE_from_attribute("DW_AT_type") if _flag(die, "type") else None


def _count(subrange: DIE) -> int:
    if _flag(subrange, "count"):
        return _number(subrange, "count")
    return _number(subrange, "upper_bound", -1) + 1  # neither: as many as there is room for


def _base(die: DIE) -> Type:
    name, size, encoding = _name(die), _number(die, "byte_size"), _number(die, "encoding")
    if encoding in _ATE_FLOATS:
        return Float(name, size) if encoding == _ATE_FLOAT and size <= 8 else Opaque(name, size)
    signed = encoding in _ATE_SIGNED
    return Int(name, size, signed, is_bool=encoding == _ATE_BOOLEAN, is_char=name == "char")


def _spelling(die: DIE) -> str:
    keyword = _KEYWORDS.get(str(die.tag))
    if keyword is not None:
        return spelled(keyword, _name(die))
    return _name(die) or ("function" if die.tag == "DW_TAG_subroutine_type" else str(die.tag))


def _spelling_of_pointer(die: DIE) -> str:
    stars, target = "", die
    for _ in range(DEEPEST):
        if target.tag == "DW_TAG_pointer_type":
            stars += "*"
        elif target.tag not in _QUALIFIERS:
            return f"{_spelling(target)} {stars}"
        behind = _target(target)
        if behind is None:
            return f"void {stars}"
        target = behind
    raise ValueError(f"a pointer to more than {DEEPEST} pointers")
