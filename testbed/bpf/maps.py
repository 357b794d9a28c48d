"""A BPF map by its descriptor: bytes in, bytes out. Types are given by the rooms above."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.bpf import libbpf


class Map:
    """One map of a loaded set. The descriptor belongs to the set, not to this object.

    Sizes are in bytes; keys and values must have exactly these sizes (`ValueError` otherwise), as
    the kernel would read beyond a shorter one.
    """

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.type, self.key_size, self.value_size, self.max_entries = libbpf.map_info(fd)

    def __repr__(self) -> str:
        return f"<Map {self.name} type={self.type} key={self.key_size} value={self.value_size}>"

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise ValueError(f"map {self.name}: a key has {self.key_size} bytes, not {len(key)}")
        return key

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where it is absent."""
        return libbpf.map_lookup(self.fd, self._key(key), self.value_size)

    def set(self, key: bytes, value: bytes) -> None:
        """Sets a value; `OSError` with E2BIG when a hash is full."""
        if len(value) != self.value_size:
            raise ValueError(f"map {self.name}: a value has {self.value_size} bytes, not {len(value)}")
        libbpf.map_update(self.fd, self._key(key), value)

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
