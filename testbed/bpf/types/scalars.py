"""C types without parts: numbers, enums, pointers, floats. `testbed.bpf.types.layout` has the others."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

Value: TypeAlias = "int | float | bytes | list[Value] | dict[str, Value]"

DEEPEST = 64  # of types within types; C promises 63 (C11 5.2.4.1)
_MOST_BYTES = 1 << 26
_MOST_VALUES = 1 << 21  # that a decoded value is made of
_FLOATS = {2: "<e", 4: "<f", 8: "<d"}


def amount(count: int, unit: str) -> str:
    """``1 byte``, ``2 bytes``."""
    return f"{count} {unit}{'' if count == 1 else 's'}"


def fault(where: str, text: str) -> ValueError:
    """The error of a type or of a value, by its name or its path."""
    return ValueError(f"{where}: {text}")


@dataclass(frozen=True)
class Type(ABC):
    """A type of ``size`` bytes. Damaged or absurd descriptions are a `ValueError` when it is made."""

    name: str
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.size <= _MOST_BYTES or self.weight > _MOST_VALUES:
            raise fault(self.name, f"absurdly large: {self.size} bytes, {self.weight} values")
        if self.depth > DEEPEST:
            raise fault(self.name, f"more than {DEEPEST} types within one another")

    @cached_property
    def weight(self) -> int:
        """How many values a decoded one is made of."""
        return 1

    @cached_property
    def depth(self) -> int:
        """How many types are within one another."""
        return 0

    @property
    def short(self) -> str:
        """``struct managed_key (16 bytes)``."""
        return f"{self.name} ({amount(self.size, 'byte')})"

    def describe(self, indent: str = "") -> str:
        """`short`, and for structs and unions a line a field: its offset in bytes, its type, its name."""
        return "\n".join((f"{indent}{self.short}", *self.lines(f"{indent}  ", 0)))

    def lines(self, indent: str, start: int) -> Iterator[str]:
        """The lines of what is inside; ``start`` is the offset of this one in the outermost type."""
        del indent, start
        yield from ()

    def decode(self, data: bytes) -> Value:
        """The value of exactly ``size`` bytes; `ValueError` for another number of them."""
        if len(data) != self.size:
            raise fault(self.name, f"has {amount(self.size, 'byte')}, not {len(data)}")
        return self._read(data)

    def encode(self, value: object) -> bytes:
        """The ``size`` bytes of a value; `ValueError` names the field whose value does not fit."""
        return self.write(value, "")

    @abstractmethod
    def _read(self, data: bytes) -> Value: ...

    @abstractmethod
    def write(self, value: object, path: str) -> bytes:
        """As `encode`; ``path`` is how errors name this value, empty for the outermost."""


class EnumValue(int):
    """A number that shows the name of the enum's member; the number itself where none has it."""

    member: str | None

    def __new__(cls, number: int, member: str | None = None) -> EnumValue:
        made = super().__new__(cls, number)
        made.member = member
        return made

    def __repr__(self) -> str:
        return self.member or int.__repr__(self)

    __str__ = __repr__


@dataclass(frozen=True)
class Scalar(Type):
    """A number, in whole bytes or in the bits of a bitfield."""

    def _read(self, data: bytes) -> Value:
        return self.of_bits(int.from_bytes(data, "little"), 8 * self.size)

    def write(self, value: object, path: str) -> bytes:
        return self.to_bits(value, 8 * self.size, path or self.name).to_bytes(self.size, "little")

    def of_bits(self, raw: int, bits: int) -> int:
        """The value of an unsigned number of so many bits."""
        del bits
        return raw

    def to_bits(self, value: object, bits: int, path: str) -> int:
        """The unsigned number of so many bits that stands for the value."""
        return _in_bits(value, bits, False, path)


def _signed(raw: int, bits: int) -> int:
    return raw - (1 << bits) if bits and raw >> (bits - 1) else raw


def _in_bits(value: object, bits: int, signed: bool, path: str) -> int:
    if not isinstance(value, int):
        raise fault(path, f"{value!r} is no integer")
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    if not low <= value < high:
        width = amount(bits, "bit") if bits % 8 else amount(bits // 8, "byte")
        raise fault(path, f"{value:d} does not fit in {width} {'signed' if signed else 'unsigned'}")
    return value & (1 << bits) - 1


@dataclass(frozen=True)
class Int(Scalar):
    """An integer of 1 to 16 bytes; a `bool` where C has one."""

    signed: bool = False
    is_bool: bool = False
    is_char: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.size <= 16:
            raise fault(self.name, f"an integer of {amount(self.size, 'byte')}")

    def of_bits(self, raw: int, bits: int) -> int:
        if self.is_bool:
            return raw != 0
        return _signed(raw, bits) if self.signed else raw

    def to_bits(self, value: object, bits: int, path: str) -> int:
        if self.is_bool and value not in (0, 1):
            raise fault(path, f"{value!r} is neither true nor false")
        return _in_bits(value, bits, self.signed, path)


@dataclass(frozen=True)
class Enum(Scalar):
    """An enum of 1, 2, 4 or 8 bytes. ``members`` are names and numbers; values are `EnumValue`."""

    signed: bool = False
    members: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size not in {1, 2, 4, 8}:
            raise fault(self.name, f"an enum of {amount(self.size, 'byte')}")

    @cached_property
    def _names(self) -> dict[int, str]:
        return {number: name for name, number in reversed(self.members)}  # of two names the first

    def lines(self, indent: str, start: int) -> Iterator[str]:
        del start
        yield from (f"{indent}{name} = {number}" for name, number in self.members)

    def of_bits(self, raw: int, bits: int) -> int:
        number = _signed(raw, bits) if self.signed else raw
        return EnumValue(number, self._names.get(number))

    def to_bits(self, value: object, bits: int, path: str) -> int:
        if isinstance(value, str):
            numbers = dict(self.members)
            if value not in numbers:
                raise fault(path, f"{self.name} has no {value}; it has {', '.join(numbers) or 'none'}")
            value = numbers[value]
        return _in_bits(value, bits, self.signed, path)


@dataclass(frozen=True)
class Pointer(Scalar):
    """An address: a number."""


@dataclass(frozen=True)
class Float(Type):
    """A float of 2, 4 or 8 bytes (IEEE 754)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size not in _FLOATS:
            raise fault(self.name, f"a float of {amount(self.size, 'byte')}")

    def _read(self, data: bytes) -> Value:
        (value,) = struct.unpack(_FLOATS[self.size], data)
        return float(value)

    def write(self, value: object, path: str) -> bytes:
        try:
            return struct.pack(_FLOATS[self.size], value)
        except (struct.error, OverflowError) as error:
            raise fault(path or self.name, f"{value!r} does not fit: {error}") from error


@dataclass(frozen=True)
class Opaque(Type):
    """What has no value of its own (void, a function, a type that is only declared): its bytes."""

    def _read(self, data: bytes) -> Value:
        return bytes(data)

    def write(self, value: object, path: str) -> bytes:
        return whole(value, self.size, path or self.name)


def whole(value: object, size: int, path: str) -> bytes:
    """Bytes as they were given, if there are as many as must be."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise fault(path, f"{value!r} is no bytes")
    if len(value) != size:
        raise fault(path, f"has {amount(size, 'byte')}, not {len(value)}")
    return bytes(value)
