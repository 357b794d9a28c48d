"""The maps and rings of the program set by role, as Python collections."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSet, Sequence, Set
from typing import Generic, TypeVar, overload

from testbed.bpf.maps import Map, RingReader
from testbed.kernel.sockdiag import socket_cookie
from testbed.kmesh.abi import Absent, PortOrder, Verdict
from testbed.kmesh.layouts import Layout
from testbed.kmesh.oracle.ledger import Cleared, Judged, Ledger, Managed, Stored
from testbed.kmesh.records import (
    Storage,
    decode_address_key,
    decode_tuple,
    encode_address_key,
    encode_tuple,
)
from testbed.lab.family import Address, ConnTuple
from testbed.lab.lab import Lab

R = TypeVar("R")


class ManagedSet(MutableSet[Address]):
    """The managed IP addresses: those that are present, with value 0 where the era looks at it.

    What is made of it is a plain set. A connect hook keeps cookies of network namespaces in the
    same map: those of the lab's hosts are not among the addresses.
    """

    @classmethod
    def _from_iterable(cls, it: Iterable[R]) -> set[R]:
        return set(it)

    def __init__(
        self,
        managed: Map,
        ledger: Ledger,
        about: str = "",
        *,
        by_value: bool = True,
        cookies: Iterable[int] = (),
    ) -> None:
        """``about`` is whose map it is, for what it cannot hold."""
        self._map = managed
        self._ledger = ledger
        self._about = about
        self._by_value = by_value
        self._cookies = {self._cookie_key(cookie) for cookie in cookies}

    def _cookie_key(self, cookie: int) -> bytes:
        return cookie.to_bytes(8, "little").ljust(self._map.key_size, b"\0")

    def _key(self, address: Address) -> bytes:
        if len(address.packed) > self._map.key_size:
            raise Absent(f"{self._about}: its managed map has no room for an IPv6 address")
        return encode_address_key(address, self._map.key_size)

    def __repr__(self) -> str:
        return "{" + ", ".join(sorted(map(str, self))) + "}"

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
            return False
        value = self.value(address)
        return value == 0 if self._by_value else value is not None

    def __iter__(self) -> Iterator[Address]:
        addresses = [decode_address_key(key) for key in self._map if key not in self._cookies]
        return iter([address for address in addresses if address in self])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, value: Address) -> None:
        self.set_value(value, 0)

    def discard(self, value: Address) -> None:
        with self._ledger.entry(Managed(value, None)):
            self._map.delete(self._key(value))

    def values(self) -> dict[Address, int]:
        """Every address that is present, with its value: not those alone that count as managed."""
        there = {decode_address_key(key): self._map.get(key) for key in self._map if key not in self._cookies}
        return {key: int.from_bytes(value, "little") for key, value in there.items() if value is not None}

    def value(self, address: Address) -> int | None:
        """The map's value of an address, None where it is absent. Only 0 means managed."""
        value = self._map.get(self._key(address))
        return None if value is None else int.from_bytes(value, "little")

    def set_value(self, address: Address, value: int) -> None:
        """Sets any value: a stale one, for example. `Absent` where presence alone counts."""
        if value and not self._by_value:
            raise Absent(f"{self._about}: whoever is in the managed map is managed, whatever the value")
        with self._ledger.entry(Managed(address, value)):
            self._map.set(self._key(address), value.to_bytes(self._map.value_size, "little"))

    def set_cookie(self, cookie: int, present: bool) -> None:
        """Makes a network namespace managed, by its cookie, or no longer."""
        with self._ledger.unjudged():
            if present:
                self._map.set(self._cookie_key(cookie), bytes(self._map.value_size))
            else:
                self._map.delete(self._cookie_key(cookie))

    def clear(self) -> None:
        with self._ledger.entry(Cleared("managed")):
            self._map.clear()


class VerdictMap(MutableMapping[ConnTuple, Verdict]):
    """Verdicts by connection, client to server."""

    def __init__(self, verdicts: Map, ledger: Ledger, ports: PortOrder) -> None:
        self._map = verdicts
        self._ledger = ledger
        self._ports = ports

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key}: {value.name}" for key, value in self.items()) + "}"

    def __getitem__(self, connection: ConnTuple) -> Verdict:
        value = self._map.get(encode_tuple(connection, self._ports))
        if value is None:
            raise KeyError(str(connection))
        return Verdict(int.from_bytes(value, "little"))

    def __setitem__(self, connection: ConnTuple, verdict: Verdict) -> None:
        value = int(verdict).to_bytes(self._map.value_size, "little")
        with self._ledger.entry(Judged(connection, Verdict(verdict))):
            self._map.set(encode_tuple(connection, self._ports), value)

    def __delitem__(self, connection: ConnTuple) -> None:
        with self._ledger.entry(Judged(connection, None)):
            if not self._map.delete(encode_tuple(connection, self._ports)):
                raise KeyError(str(connection))

    def __iter__(self) -> Iterator[ConnTuple]:
        return iter([decode_tuple(key, self._ports) for key in self._map])

    def __len__(self) -> int:
        return sum(1 for _ in self._map)

    def clear(self) -> None:
        with self._ledger.entry(Cleared("verdicts")):
            self._map.clear()


class StorageMap:
    """The storage of sockets, by the socket itself: the map's key is its descriptor."""

    def __init__(self, storage: Map, ledger: Ledger, layout: Layout, ports: PortOrder) -> None:
        self._map = storage
        self._ledger = ledger
        self._layout = layout
        self._ports = ports

    @property
    def fields(self) -> frozenset[str]:
        """What the era's storage has."""
        return frozenset(self._layout.fields)

    @staticmethod
    def _key(sock: socket.socket) -> bytes:
        return sock.fileno().to_bytes(4, "little")

    def decode(self, value: bytes) -> Storage:
        """A value of the map."""
        return Storage.decode(value, self._layout, self._ports)

    def of_sockets(self, lab: Lab, cookies: Set[int]) -> dict[int, Storage]:
        """The storages of a lab's sockets by their cookies, whoever holds these sockets: sock_diag's word."""
        return {
            cookie: self.decode(value)
            for host in lab.hosts.values()
            for cookie, value in host.socket_storages(self._map.fd).items()
            if cookie in cookies
        }

    def __contains__(self, sock: socket.socket) -> bool:
        return self._map.get(self._key(sock)) is not None

    def __getitem__(self, sock: socket.socket) -> Storage:
        value = self._map.get(self._key(sock))
        if value is None:
            raise KeyError(f"{sock} has no storage")
        return self.decode(value)

    def __setitem__(self, sock: socket.socket, storage: Storage) -> None:
        with self._ledger.entry(Stored(socket_cookie(sock), storage)):
            self._map.set(self._key(sock), storage.encode(self._layout, self._ports))

    def __delitem__(self, sock: socket.socket) -> None:
        with self._ledger.entry(Stored(socket_cookie(sock), None)):
            if not self._map.delete(self._key(sock)):
                raise KeyError(f"{sock} has no storage")


class SockhashKeys(Set[ConnTuple]):
    """The sockets in the sockhash by their tuple, local to remote.

    By walking the keys: a lookup from user space answers ENOSPC for a map with 4-byte values,
    whether the key is there or not.
    """

    @classmethod
    def _from_iterable(cls, it: Iterable[R]) -> set[R]:
        return set(it)

    def __init__(self, sockhash: Map, ledger: Ledger, ports: PortOrder) -> None:
        self._map = sockhash
        self._ledger = ledger
        self._ports = ports

    def __repr__(self) -> str:
        return "{" + ", ".join(map(str, self)) + "}"

    def __contains__(self, connection: object) -> bool:
        return connection in list(self)

    def __iter__(self) -> Iterator[ConnTuple]:
        return iter([decode_tuple(key, self._ports) for key in self._map])

    def __len__(self) -> int:
        return sum(1 for _ in self._map)

    def clear(self) -> None:
        """Takes every socket out."""
        with self._ledger.entry(Cleared("sockhash")):
            self._map.clear()


class Stream(Sequence[R], Generic[R]):
    """The records of a ring so far, oldest first. Reading takes in what has come meanwhile."""

    def __init__(self, ring: Map, decode: Callable[[bytes], R]) -> None:
        self._raw: list[bytes] = []
        self._records: list[R] = []
        self._forgotten = 0
        self._decode = decode
        self._reader: RingReader | None = ring.reader

    def __repr__(self) -> str:
        return "[" + "; ".join(map(str, self)) + "]"

    def _open(self) -> RingReader:
        if self._reader is None:
            raise ValueError("the stream is closed")
        return self._reader

    def read(self) -> None:
        self._raw += self._open().take()
        while self._raw:
            # taken out first: a malformed record is reported once, by whoever reads it
            self._records.append(self._decode(self._raw.pop(0)))

    @property
    def everything(self) -> list[R]:
        """With those that `clear` had forgotten."""
        self.read()
        return list(self._records)

    def __len__(self) -> int:
        self.read()
        return len(self._records) - self._forgotten

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        self.read()
        return self._records[self._forgotten :][index]

    def __iter__(self) -> Iterator[R]:
        self.read()
        return iter(self._records[self._forgotten :])

    def clear(self) -> None:
        """Forgets what has come so far."""
        self.read()
        self._forgotten = len(self._records)

    def take(self) -> list[R]:
        """What has come since the last time, which is let go of: for who keeps it himself."""
        self.read()
        taken = self._records[self._forgotten :]
        self._records.clear()
        self._forgotten = 0
        return taken

    def drop(self) -> None:
        """Throws away what has come so far, decodable or not: it is of another lab."""
        self._open().take()
        self._raw.clear()
        self._records.clear()
        self._forgotten = 0

    def fileno(self) -> int:
        return self._open().fileno()

    def close(self) -> None:
        """What comes from now on is another's."""
        self._reader = None
