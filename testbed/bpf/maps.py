"""A BPF map by its descriptor: bytes in, bytes out; and as Python values where its types are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from testbed.acquired import acquired
from testbed.bpf import libbpf
from testbed.bpf.kinds import MapType, map_type_name
from testbed.bpf.types.layout import Type, Value
from testbed.errors import errno_name

Types = tuple[Type | None, Type | None]
_MMAPABLE = 1 << 10  # BPF_F_MMAPABLE
_PER_CPU = {
    MapType.PERCPU_HASH,
    MapType.PERCPU_ARRAY,
    MapType.LRU_PERCPU_HASH,
    MapType.PERCPU_CGROUP_STORAGE,
}


class RingReader:
    """Takes what has come into a ring buffer. Made once for a map: that costs a hundred records."""

    def __init__(self, map_fd: int) -> None:
        self._taken: list[bytes] = []
        self._consumer = libbpf.RingConsumer(map_fd, self._taken.append)
        acquired("kept ring", self._consumer.fileno())  # as long as its map, whichever test is the first

    def take(self) -> list[bytes]:
        """The records since the last time, as bytes."""
        self._consumer.consume()
        taken = self._taken.copy()
        self._taken.clear()
        return taken

    def fileno(self) -> int:
        """As `testbed.bpf.libbpf.RingConsumer.fileno`."""
        return self._consumer.fileno()

    def close(self) -> None:
        self._consumer.close()


class Map:
    """One map of a loaded set. The descriptor belongs to the set, not to this object.

    Sizes are in bytes; keys and values must have exactly these sizes (`ValueError` otherwise), as
    the kernel would read beyond a shorter one. A per-CPU map's value is that of all CPUs, each
    padded to 8 bytes: ``value_size`` is the size of all, ``cpus`` how many they are.
    """

    def __init__(self, name: str, fd: int, types: Callable[[], Types] | None = None) -> None:
        """``types`` is asked for the types of key and value when they are needed first."""
        self.name = name
        self._fd = fd
        self.type, self.key_size, self.value_size, self.max_entries, flags = libbpf.map_info(fd)
        self.mappable = bool(flags & _MMAPABLE)
        self._types = types
        # a lookup with 4-byte values answers ENOSPC, present or not (net/core/sock_map.c)
        self.keys_only = self.type in {MapType.SOCKMAP, MapType.SOCKHASH} and self.value_size == 4
        self.cpus = 1
        self.per_cpu = self.type in _PER_CPU
        if self.per_cpu:
            self.cpus = libbpf.possible_cpus()
            self.value_size = (self.value_size + 7 & ~7) * self.cpus

    @property
    def fd(self) -> int:
        """`ValueError` once the set is closed: the number may be somebody else's by then."""
        if self._fd < 0:
            raise ValueError(f"map {self.name}: its set is closed")
        return self._fd

    def forget(self) -> None:
        """The descriptor is closed."""
        self._fd = -1
        if "reader" in self.__dict__:
            self.reader.close()

    @cached_property
    def reader(self) -> RingReader:
        """Reads a ring buffer, until the set is closed; `OSError` where it is none."""
        return RingReader(self.fd)

    @cached_property
    def types(self) -> Types:
        """The types of key and value, None for what has no BTF. `BtfError` when that is damaged."""
        return self._types() if self._types else (None, None)

    @property
    def key_type(self) -> Type | None:
        return self.types[0]

    @property
    def value_type(self) -> Type | None:
        return self.types[1]

    def __repr__(self) -> str:
        return f"<Map {self.name} {map_type_name(self.type)} key={self.key_size} value={self.value_size}>"

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise ValueError(f"map {self.name}: a key has {self.key_size} bytes, not {len(key)}")
        return key

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where it is absent.

        `ValueError` for a sockhash or sockmap: the kernel shows user space their keys alone.
        """
        if self.keys_only:
            raise ValueError(f"map {self.name}: the values of a {map_type_name(self.type)} cannot be read")
        return libbpf.map_lookup(self.fd, self._key(key), self.value_size)

    def set(self, key: bytes, value: bytes) -> None:
        """Sets a value; `OSError` with E2BIG when a hash is full."""
        if len(value) != self.value_size:
            raise ValueError(f"map {self.name}: a value has {self.value_size} bytes, not {len(value)}")
        try:
            libbpf.map_update(self.fd, self._key(key), value)
        except OSError as error:
            raise OSError(error.errno, f"map {self.name}: {errno_name(error.errno or 0)}") from error

    def delete(self, key: bytes) -> bool:
        """Removes a key; returns whether it was there."""
        return libbpf.map_delete(self.fd, self._key(key))

    def __iter__(self) -> Iterator[bytes]:
        """The keys, as the kernel walks them; do not change the map meanwhile."""
        key = libbpf.map_next_key(self.fd, None, self.key_size)
        while key is not None:
            yield key
            key = libbpf.map_next_key(self.fd, key, self.key_size)

    def clear(self) -> None:
        """Removes every key."""
        for key in list(self):
            self.delete(key)

    @property
    def typed(self) -> TypedMap:
        """The same map in Python values."""
        return TypedMap(self)


@dataclass(frozen=True)
class TypedMap:
    """A map as Python values: structs are dicts, so that keys need not be hashable.

    What has no BTF is bytes. A per-CPU map's value is a list, one item a CPU.
    """

    map: Map

    def _key(self, key: object) -> bytes:
        return _encoded(self.map.key_type, key, f"key of map {self.map.name}")

    def _encode_value(self, value: object) -> bytes:
        what = f"value of map {self.map.name}"
        if not self.map.per_cpu:
            return _encoded(self.map.value_type, value, what)
        if not isinstance(value, list) or len(value) != self.map.cpus:
            raise ValueError(f"{what}: a list of {self.map.cpus}, one a CPU")
        each = self.map.value_size // self.map.cpus
        return b"".join(_encoded(self.map.value_type, one, what).ljust(each, b"\0") for one in value)

    def _decode_value(self, data: bytes) -> Value:
        if not self.map.per_cpu:
            return _decoded(self.map.value_type, data)
        each = len(data) // self.map.cpus
        size = self.map.value_type.size if self.map.value_type else each
        return [_decoded(self.map.value_type, data[at : at + size]) for at in range(0, len(data), each)]

    def get(self, key: object) -> Value | None:
        """The value of a key, None where it is absent."""
        data = self.map.get(self._key(key))
        return None if data is None else self._decode_value(data)

    def __getitem__(self, key: object) -> Value:
        data = self.map.get(self._key(key))
        if data is None:
            raise KeyError(key)
        return self._decode_value(data)

    def __setitem__(self, key: object, value: object) -> None:
        self.map.set(self._key(key), self._encode_value(value))

    def __delitem__(self, key: object) -> None:
        if not self.map.delete(self._key(key)):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        if self.map.keys_only:
            return self._key(key) in list(self.map)
        return self.map.get(self._key(key)) is not None

    def __iter__(self) -> Iterator[Value]:
        return iter([_decoded(self.map.key_type, key) for key in self.map])

    def __len__(self) -> int:
        return sum(1 for _ in self.map)

    def items(self) -> list[tuple[Value, Value]]:
        """Keys with their values; a key that goes meanwhile is left out."""
        if self.map.keys_only:
            raise ValueError(f"map {self.map.name}: only its keys can be read; walk it by `list`")
        found = [(key, self.map.get(key)) for key in self.map]
        return [
            (_decoded(self.map.key_type, key), self._decode_value(data))
            for key, data in found
            if data is not None
        ]


def _decoded(kind: Type | None, data: bytes) -> Value:
    return data if kind is None else kind.decode(data)


def _encoded(kind: Type | None, value: object, what: str) -> bytes:
    if kind is not None:
        return kind.encode(value)
    if not isinstance(value, bytes):
        raise TypeError(f"the {what} has no BTF: give its bytes")
    return value
