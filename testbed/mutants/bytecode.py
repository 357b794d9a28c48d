"""Mutants of compiled programs: one instruction changed, the rest of the object as it was.

The encoding is that of the kernel's ``Documentation/bpf/standardization/instruction-set.rst``.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from testbed.bpf.elf.file import ObjectFile, elf_damage
from testbed.mutants.model import Mutant, stable_id

_EXECUTABLE = 4  # SHF_EXECINSTR
_WIDE = 0x18  # a load of 64 bits takes two slots
_CALL, _EXIT, _JUMP = 0x85, 0x95, 0x05
_LDX, _ST, _STX, _ALU, _JMP, _JMP32, _ALU64 = 1, 2, 3, 4, 5, 6, 7
_MEMORY = 0x60  # the mode of plain loads and stores, in the upper three bits
_END = 0xD0
_CONDITIONS = {
    0x10: ("jeq", (0x50,)),
    0x50: ("jne", (0x10,)),
    0x20: ("jgt", (0x30, 0xB0, 0x60)),
    0x30: ("jge", (0x20, 0xA0, 0x70)),
    0xA0: ("jlt", (0xB0, 0x30, 0xC0)),
    0xB0: ("jle", (0xA0, 0x20, 0xD0)),
    0x60: ("jsgt", (0x70, 0xD0, 0x20)),
    0x70: ("jsge", (0x60, 0xC0, 0x30)),
    0xC0: ("jslt", (0xD0, 0x70, 0xA0)),
    0xD0: ("jsle", (0xC0, 0x60, 0xB0)),
    0x40: ("jset", ()),
}
_OPERATIONS = {
    0x00: ("add", (0x10,)),
    0x10: ("sub", (0x00,)),
    0x20: ("mul", ()),
    0x30: ("div", ()),
    0x40: ("or", (0x50,)),
    0x50: ("and", (0x40,)),
    0x60: ("lsh", (0x70,)),
    0x70: ("rsh", (0x60,)),
    0x80: ("neg", ()),
    0x90: ("mod", ()),
    0xA0: ("xor", (0x40,)),
    0xB0: ("mov", ()),
    0xC0: ("arsh", (0x70,)),
}
_SIZES = {0x00: ("u32", (0x08,)), 0x08: ("u16", (0x10,)), 0x10: ("u8", (0x08,)), 0x18: ("u64", (0x00,))}
_SYMMETRIC = {0x10, 0x50, 0x40}


class Instruction(NamedTuple):
    """Eight bytes: ``registers`` has the destination in its lower half, the source in its upper."""

    code: int
    registers: int
    offset: int
    immediate: int

    @classmethod
    def of(cls, data: bytes) -> Instruction:
        return cls(*struct.unpack("<BBhi", data))

    def pack(self) -> bytes:
        return struct.pack("<BBhi", *self)

    @property
    def operation(self) -> int:
        return self.code & 0xF0

    @property
    def kind(self) -> int:
        return self.code & 0x07

    @property
    def by_register(self) -> bool:
        return bool(self.code & 0x08)

    def __str__(self) -> str:  # noqa: PLR0911 (one for each kind)
        to, by = f"r{self.registers & 15}", f"r{self.registers >> 4}"
        value = by if self.by_register else f"{self.immediate:#x}"
        if self.code == _JUMP:
            return "nothing" if not self.offset else f"goto {self.offset:+d}"
        if self.code == _CALL:
            return f"call {self.immediate}"
        if self.kind in {_JMP, _JMP32} and self.operation in _CONDITIONS:
            name = _CONDITIONS[self.operation][0]
            return f"{name}{'32' * (self.kind == _JMP32)} {to}, {value}, {self.offset:+d}"
        if self.kind in {_ALU, _ALU64}:
            if self.operation == _END:
                return f"{'be' if self.by_register else 'le'}{self.immediate} {to}"
            return f"{_OPERATIONS[self.operation][0]}{'32' * (self.kind == _ALU)} {to}, {value}"
        size = _SIZES[self.code & 0x18][0]
        if self.kind == _LDX:
            return f"{to} = {size} [{by}{self.offset:+d}]"
        return f"{size} [{to}{self.offset:+d}] = {by if self.kind == _STX else hex(self.immediate)}"


NOTHING = Instruction(_JUMP, 0, 0, 0)
_NO_CALL = Instruction(_ALU64 | 0xB0, 0, 0, 0)  # r0 = 0


def changes(one: Instruction) -> Iterator[Instruction]:
    """What an instruction without relocation could be by mistake."""
    if one.code == _CALL:
        if not one.registers:  # a helper; a subprogram's number is another thing
            yield _NO_CALL
    elif one.code in {_JUMP, _EXIT}:
        return
    elif one.kind in {_JMP, _JMP32} and one.operation in _CONDITIONS:
        yield from _conditions(one)
    elif one.kind in {_ALU, _ALU64} and one.operation in {_END, *_OPERATIONS}:
        yield from _operations(one)
    elif one.kind in {_LDX, _ST, _STX} and one.code & 0xE0 == _MEMORY:
        for size in _SIZES[one.code & 0x18][1]:
            yield one._replace(code=(one.code & ~0x18) | size)
        if one.kind != _LDX:
            yield NOTHING
        if one.kind == _ST:
            yield from _near(one)


def _conditions(one: Instruction) -> Iterator[Instruction]:
    for other in _CONDITIONS[one.operation][1]:
        yield one._replace(code=(one.code & 0x0F) | other)
    if not one.by_register:
        yield from _near(one)
    elif one.operation not in _SYMMETRIC:
        yield one._replace(registers=(one.registers >> 4) | ((one.registers & 15) << 4))


def _operations(one: Instruction) -> Iterator[Instruction]:
    if one.operation == _END:
        yield NOTHING
        return
    for other in _OPERATIONS[one.operation][1]:
        yield one._replace(code=(one.code & 0x0F) | other)
    if not one.by_register and one.operation != 0x80:
        yield from _near(one)


def _near(one: Instruction) -> Iterator[Instruction]:
    for other in (one.immediate - 1, one.immediate + 1):
        if -(1 << 31) <= other < 1 << 31:
            yield one._replace(immediate=other)


def bytecode_mutants(file: ObjectFile) -> Iterator[tuple[Mutant, bytes]]:
    """Every mutant of an object, with its bytes. `ObjectError` for a damaged one."""
    for section, start, code, relocated in _code(file):
        place = f"{Path(file.path).name}:{section}"
        after_wide = False
        for number in range(len(code) // 8):
            at = number * 8
            one = Instruction.of(code[at : at + 8])
            skip, after_wide = after_wide, one.code == _WIDE
            if skip or after_wide or at in relocated:
                continue
            for count, other in enumerate(changes(one)):
                mutated = file.data[: start + at] + other.pack() + file.data[start + at + 8 :]
                id_ = stable_id(place, number, str(one), str(other), count)
                yield Mutant(id_, place, number, str(one), str(other)), mutated


def _code(file: ObjectFile) -> Iterator[tuple[str, int, bytes, set[int]]]:
    """Each section of programs: its name, its place in the file, its bytes, what offsets are relocated."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.relocation import RelocationSection

    try:
        elf = ELFFile(io.BytesIO(file.data))
        sections = list(elf.iter_sections())
        for number, section in enumerate(sections):
            if section["sh_type"] == "SHT_PROGBITS" and section["sh_flags"] & _EXECUTABLE:
                relocated = {
                    entry["r_offset"]
                    for other in sections
                    if isinstance(other, RelocationSection) and other["sh_info"] == number
                    for entry in other.iter_relocations()
                }
                yield section.name, section["sh_offset"], section.data(), relocated
    except Exception as error:
        raise elf_damage(file.path, error) from error
