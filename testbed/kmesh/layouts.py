"""Where the fields of a record are: by the profile, or by the object's own debug information."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from testbed.bpf.types.layout import Struct, Type, Union
from testbed.kmesh.profile import RecordSpec


@dataclass(frozen=True)
class Layout:
    """A record's size and its fields: (offset, size) by name. ``about`` is whose records they are."""

    about: str
    size: int
    fields: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, spec: RecordSpec, about: str, found: Mapping[str, Type] | None = None) -> Layout:
        """The profile's; with the places that an object's own struct of that name has, where it is known.

        A field that the struct calls otherwise stays where the profile says.
        """
        places = dict(spec.fields)
        size = spec.size
        for name in spec.structs:
            kind = (found or {}).get(name)
            if isinstance(kind, Struct | Union):
                size = kind.size
                for each in places:
                    try:
                        offset, of_field = kind.field_at(each)
                    except KeyError:
                        continue
                    places[each] = (offset, of_field.size)
                break
        return cls(about, size, places)

    def differences(self, spec: RecordSpec) -> list[str]:
        """Where it differs from the profile's, in words."""
        found = [
            f"{name} at byte {offset}, not {spec.fields[name][0]}"
            for name, (offset, _) in self.fields.items()
            if offset != spec.fields[name][0]
        ]
        return [f"{self.size} bytes, not {spec.size}"] * (self.size != spec.size) + found

    def part(self, data: bytes, name: str) -> bytes:
        offset, size = self.fields[name]
        return data[offset : offset + size]

    def number(self, data: bytes, name: str) -> int:
        return int.from_bytes(self.part(data, name), "little")

    def numbers(self, data: bytes) -> dict[str, int]:
        """Every field that is a number: of at most eight bytes."""
        return {name: self.number(data, name) for name, (_, size) in self.fields.items() if size <= 8}

    def put(self, data: bytearray, name: str, value: int | bytes) -> None:
        offset, size = self.fields[name]
        data[offset : offset + size] = value if isinstance(value, bytes) else value.to_bytes(size, "little")

    def unused(self, data: bytes, used: Mapping[str, int]) -> dict[int, bytes]:
        """The bytes that no field covers, by their offset: every gap that there is.

        Of the fields in ``used`` only so many bytes count as covered.
        """
        key = (len(data), *used.items())
        if key not in self._gaps:
            self._gaps[key] = self._find_gaps(len(data), used)
        return {start: data[start:end] for start, end in self._gaps[key]}

    @cached_property
    def _gaps(self) -> dict[tuple[object, ...], tuple[tuple[int, int], ...]]:
        """What has been found, by what was asked for: records are many, their shapes few."""
        return {}

    def _find_gaps(self, size: int, used: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
        covered = bytearray(size)
        for name, (offset, length) in self.fields.items():
            count = used.get(name, length)
            covered[offset : offset + count] = b"\x01" * count
        return tuple(gap.span() for gap in re.finditer(rb"\x00+", covered))
