"""Global variables of programs, by name: as bytes, and as Python values."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cached_property

from testbed.acquired import acquired
from testbed.bpf.maps import Map
from testbed.bpf.types.layout import Type, Value

_PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class Place:
    """Where a variable is: in a map's only value, at an offset. Sizes in bytes; no type without BTF."""

    map: Map
    offset: int
    size: int
    type: Type | None = None
    constant: bool = False


class MapVariables(MutableMapping[str, bytes]):
    """Variables as bytes. One of the same name in several objects is set in all, read from the first.

    Writing goes through memory shared with the program where the map allows it (Linux 5.5), so that
    its neighbours, which the program may be changing, stay as they are. ``find`` is asked where the
    variables are when that is needed first.
    """

    def __init__(self, find: Callable[[], Mapping[str, tuple[Place, ...]]]) -> None:
        self._find = find
        self._closed = False
        self._memories: dict[int, mmap.mmap] = {}

    def forget(self) -> None:
        """The descriptors of the maps are closed."""
        self._closed = True
        for memory in self._memories.values():
            memory.close()
        self._memories.clear()

    @cached_property
    def _places(self) -> Mapping[str, tuple[Place, ...]]:
        return self._find()

    def type_of(self, name: str) -> Type | None:
        """The C type of a variable, None where it is unknown."""
        return self._places_of(name)[0].type

    def _places_of(self, name: str) -> tuple[Place, ...]:
        if self._closed:
            raise ValueError(f"variable {name}: its set is closed")
        if name not in self._places:
            raise KeyError(f"there is no variable {name}; there are {', '.join(self._places) or 'none'}")
        return self._places[name]

    def __getitem__(self, name: str) -> bytes:
        place = self._places_of(name)[0]
        value = place.map.get(bytes(4))
        assert value is not None, "an array always has its entry 0"
        return value[place.offset : place.offset + place.size]

    def __setitem__(self, name: str, data: bytes) -> None:
        places = self._places_of(name)
        for place in places:
            if len(data) != place.size:
                raise ValueError(f"variable {name} has {place.size} bytes, not {len(data)}")
            if place.constant:
                raise TypeError(f"variable {name} is constant: it can be set before the load only")
        for place in places:
            self._write(place, data)

    def _write(self, place: Place, data: bytes) -> None:
        if place.map.mappable:
            self._memory(place.map)[place.offset : place.offset + place.size] = data
            return
        value = place.map.get(bytes(4))
        assert value is not None, "an array always has its entry 0"
        place.map.set(bytes(4), value[: place.offset] + data + value[place.offset + place.size :])

    def _memory(self, of: Map) -> mmap.mmap:
        """A map's memory, kept until the set is closed."""
        if of.fd not in self._memories:
            self._memories[of.fd] = mmap.mmap(of.fd, (of.value_size + _PAGE - 1) // _PAGE * _PAGE)
            acquired("kept mapping", of.fd)  # as long as the set, whichever test is the first
        return self._memories[of.fd]

    def __delitem__(self, name: str) -> None:
        raise TypeError("a program's variables cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class TypedVariables(MutableMapping[str, Value]):
    """Variables as Python values of their C types. One whose type is unknown is bytes."""

    def __init__(self, variables: MapVariables) -> None:
        self._variables = variables

    def __getitem__(self, name: str) -> Value:
        kind = self._variables.type_of(name)
        return self._variables[name] if kind is None else kind.decode(self._variables[name])

    def __setitem__(self, name: str, value: object) -> None:
        kind = self._variables.type_of(name)
        if kind is not None:
            self._variables[name] = kind.encode(value)
        elif isinstance(value, bytes):
            self._variables[name] = value
        else:
            raise TypeError(f"the type of variable {name} is unknown (no BTF): give its bytes")

    def __delitem__(self, name: str) -> None:
        raise TypeError("a program's variables cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name}={value!r}' for name, value in self.items())}}}"
