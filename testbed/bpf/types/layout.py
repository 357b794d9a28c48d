"""C types as what they hold: the bytes of maps, variables and records into Python, and back.

Little-endian throughout, as the objects are that the testbed loads. A type's name is C's own spelling:
``struct tcp_event``, ``__be32``, ``struct {…}`` where there is no name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from testbed.bpf.types.scalars import (
    Enum,
    EnumValue,
    Float,
    Int,
    Opaque,
    Pointer,
    Scalar,
    Type,
    Value,
    amount,
    fault,
    whole,
)

__all__ = [
    "Array",
    "Enum",
    "EnumValue",
    "Field",
    "Float",
    "Int",
    "Opaque",
    "Pointer",
    "Struct",
    "Type",
    "Union",
    "Value",
    "aliased",
    "array_of",
    "spelled",
]

_NAMELESS = "{…}"


def spelled(keyword: str, tag: str) -> str:
    """``struct tag``, or ``struct {…}`` where the tag is empty."""
    return f"{keyword} {tag or _NAMELESS}"


def aliased(kind: Type, alias: str) -> Type:
    """A type under a typedef's name: numbers and what has no name take it, others keep their own."""
    if isinstance(kind, Int | Float) or kind.name.endswith(_NAMELESS):
        return replace(kind, name=alias)
    return kind


@dataclass(frozen=True)
class Array(Type):
    """Made by `array_of`. A list of ``count`` values; of characters: the bytes as they are."""

    element: Type
    count: int

    @cached_property
    def weight(self) -> int:
        return 1 if self._text else 1 + self.count * self.element.weight

    @cached_property
    def depth(self) -> int:
        return 1 + self.element.depth

    @property
    def _text(self) -> bool:
        return isinstance(self.element, Int) and self.element.is_char

    def lines(self, indent: str, start: int) -> Iterator[str]:
        if not isinstance(self.element, Enum):
            yield from self.element.lines(indent, start)

    def _read(self, data: bytes) -> Value:
        if self._text:
            return bytes(data)
        size = self.element.size
        return [self.element.decode(data[at * size : (at + 1) * size]) for at in range(self.count)]

    def write(self, value: object, path: str) -> bytes:
        if self._text:
            text = value.encode() if isinstance(value, str) else value
            if isinstance(text, bytes | bytearray) and len(text) < self.size:
                text = text.ljust(self.size, b"\0")
            return whole(text, self.size, path or self.name)
        if isinstance(value, bytes | bytearray) and self.element.size == 1:
            value = list(value)
        if not isinstance(value, list | tuple):
            raise fault(path or self.name, f"{value!r} is no list")
        if len(value) != self.count:
            raise fault(path or self.name, f"has {amount(self.count, 'element')}, not {len(value)}")
        return b"".join(self.element.write(item, f"{path}[{at}]") for at, item in enumerate(value))


def array_of(element: Type, count: int) -> Array:
    """``element[count]``; an array of arrays is C's with the dimensions in C's order."""
    head, bracket, inner = element.name.partition("[")
    return Array(f"{head}[{count}]{bracket}{inner}", element.size * count, element, count)


@dataclass(frozen=True)
class Field:
    """A field, in bits from the start of its struct; ``bit_size`` is None but for a bitfield.

    One without a name is a struct or union whose own fields are reached as the parent's.
    """

    name: str
    type: Type
    bit_offset: int
    bit_size: int | None = None

    @property
    def offset(self) -> int:
        """The byte where it starts."""
        return self.bit_offset // 8

    @property
    def span(self) -> slice:
        """The bytes that it touches."""
        bits = 8 * self.type.size if self.bit_size is None else self.bit_size
        return slice(self.offset, (self.bit_offset + bits + 7) // 8)

    def wrong(self, size: int) -> str:
        """What is wrong with it in a struct of ``size`` bytes, if anything."""
        if self.bit_size is None:
            if self.bit_offset % 8:
                return "starts within a byte"
        elif not isinstance(self.type, Scalar) or not 0 < self.bit_size <= 8 * self.type.size:
            return f"is {amount(self.bit_size, 'bit')} of {self.type.short}"
        if not self.name and not isinstance(self.type, Compound):
            return "has no name"
        outside = self.bit_offset < 0 or self.span.stop > size
        return f"is outside of the {amount(size, 'byte')}" if outside else ""

    def read(self, data: bytes) -> Value:
        """Its value in the bytes of the struct."""
        part = data[self.span]
        if self.bit_size is None:
            return self.type.decode(part)
        assert isinstance(self.type, Scalar)
        raw = int.from_bytes(part, "little") >> self.bit_offset % 8
        return self.type.of_bits(raw & (1 << self.bit_size) - 1, self.bit_size)

    def put(self, value: object, raw: bytearray, path: str) -> None:
        """Writes a value into the bytes of the struct; the bits of other fields stay."""
        if self.bit_size is None:
            raw[self.span] = self.type.write(value, path)
            return
        assert isinstance(self.type, Scalar)
        bits = self.type.to_bits(value, self.bit_size, path) << self.bit_offset % 8
        before = raw[self.span]
        raw[self.span] = (int.from_bytes(before, "little") | bits).to_bytes(len(before), "little")


@dataclass(frozen=True)
class Compound(Type):
    """A struct or a union: a dict by field name."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        for field in self.fields:
            if wrong := field.wrong(self.size):
                raise fault(self.name, f"field {field.name or _NAMELESS} {wrong}")
        super().__post_init__()

    @cached_property
    def weight(self) -> int:
        return 1 + sum(field.type.weight for field in self.fields)

    @cached_property
    def depth(self) -> int:
        return 1 + max((field.type.depth for field in self.fields), default=0)

    @cached_property
    def _owners(self) -> dict[str, Field]:
        """The names that can be used here, with the field of this type that each is or is in."""
        owners = {}
        for field in self.fields:
            if field.name:
                owners[field.name] = field
            elif isinstance(field.type, Compound):
                owners |= dict.fromkeys(field.type._owners, field)
        return owners

    def decode(self, data: bytes) -> dict[str, Value]:
        values = super().decode(data)
        assert isinstance(values, dict)
        return values

    def field_at(self, path: str) -> tuple[int, Type]:
        """The offset in bytes and the type of ``field`` or ``field.inner``; `KeyError` without one."""
        name, dot, rest = path.partition(".")
        field = self._owners.get(name)
        if field is None:
            raise KeyError(f"{self.name} has no {path}")
        if field.name and not dot:
            return field.offset, field.type
        if not isinstance(field.type, Compound):
            raise KeyError(f"{field.type.name} {name} has no {rest}")
        offset, kind = field.type.field_at(rest if field.name else path)
        return field.offset + offset, kind

    def lines(self, indent: str, start: int) -> Iterator[str]:
        for field in self.fields:
            at = f"@{start + field.offset}"
            name = f" {field.name}" if field.name else ""
            if field.bit_size is not None:
                at += f":{field.bit_offset % 8}"
                name += f":{field.bit_size}"
            head, bracket, dimensions = field.type.name.partition("[")
            yield f"{indent}{at} {head}{name.strip() if head.endswith('*') else name}{bracket}{dimensions}"
            if not isinstance(field.type, Enum):
                yield from field.type.lines(f"{indent}  ", start + field.offset)

    def _read(self, data: bytes) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for field in self.fields:
            value = field.read(data)
            if field.name:
                values[field.name] = value
            elif isinstance(value, dict):
                values |= value
        return values

    def write(self, value: object, path: str) -> bytes:
        if not isinstance(value, Mapping):
            raise fault(path or self.name, f"{value!r} is no dict of fields")
        for name in value:
            if name not in self._owners:
                raise fault(path or self.name, f"no field {name}; it has {', '.join(self._owners)}")
        given = list(self._given(value))
        self._check([field for field, _ in given], path or self.name)
        raw = bytearray(self.size)
        for field, item in given:
            within = ".".join(filter(None, (path, field.name)))
            field.put(item, raw, within)
        return bytes(raw)

    def _given(self, values: Mapping[str, object]) -> Iterator[tuple[Field, object]]:
        for field in self.fields:
            if field.name:
                if field.name in values:
                    yield field, values[field.name]
            elif mine := {name: item for name, item in values.items() if self._owners[name] is field}:
                yield field, mine

    def _check(self, given: list[Field], path: str) -> None:
        """Whether these fields may be given together."""


class Struct(Compound):
    """A struct. Fields that are not given are zero."""


class Union(Compound):
    """A union: decoded in the reading of every member, encoded from exactly one."""

    def _check(self, given: list[Field], path: str) -> None:
        if len(given) != 1:
            raise fault(
                path, f"a union takes exactly one of {', '.join(self._owners)}; {len(given)} are given"
            )
