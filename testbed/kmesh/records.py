"""Keys, values and records as Python values. Addresses are `ipaddress` objects, ports ints.

Where their fields are is the profile's word (`testbed.kmesh.layouts`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Absent, Direction, PortOrder
from testbed.kmesh.layouts import Layout
from testbed.lab.family import Address, ConnTuple, endpoint

Destination = tuple[Address, int]
Event = tuple[Direction, TcpState]

TUPLE_SIZE = 36  # struct bpf_sock_tuple
_TYPE_IPV4, _TYPE_IPV6 = 0, 1


class MalformedRecord(AssertionError):
    """A record that no program keeping the contract writes: a size, type or state that is none."""


def encode_address_key(address: Address, size: int = 16) -> bytes:
    """A key of the managed map; an IPv4 address is followed by zeroes."""
    return address.packed.ljust(size, b"\0")


def decode_address_key(key: bytes) -> Address:
    """The address of a managed key. One with zeroes behind the first 4 bytes is taken for IPv4."""
    return _address(key if any(key[4:]) else key[:4])


def encode_tuple(connection: ConnTuple, ports: PortOrder) -> bytes:
    """``struct bpf_sock_tuple``, 36 bytes; an IPv4 tuple is 12 bytes and 24 zeroes."""
    data = connection.src.packed + connection.dst.packed
    data += connection.sport.to_bytes(2, ports) + connection.dport.to_bytes(2, ports)
    return data.ljust(TUPLE_SIZE, b"\0")


@lru_cache(maxsize=4096)
def _address(packed: bytes) -> Address:
    return ipaddress.ip_address(packed)


def decode_tuple(data: bytes, ports: PortOrder, version: int | None = None) -> ConnTuple:
    """A tuple of an IP version; without one, 24 zeroes at the end tell an IPv4 tuple."""
    if version is None:
        version = 6 if any(data[12:]) else 4
    size = 4 if version == 4 else 16
    return ConnTuple(
        _address(data[:size]),
        int.from_bytes(data[2 * size : 2 * size + 2], ports),
        _address(data[size : 2 * size]),
        int.from_bytes(data[2 * size + 2 : 2 * size + 4], ports),
    )


def _version(kind: int, data: bytes) -> int:
    if kind not in {_TYPE_IPV4, _TYPE_IPV6}:
        raise MalformedRecord(
            f"a record has the type {kind}, which is neither IPv4 (0) nor IPv6 (1): {data.hex()}"
        )
    return 4 if kind == _TYPE_IPV4 else 6


def _sized(data: bytes, size: int, what: str) -> bytes:
    """A ring's records are multiples of 8 bytes to the kernel, but reported as reserved."""
    if len(data) != size:
        raise MalformedRecord(f"{what} has {size} bytes, this one {len(data)}: {data.hex()}")
    return data


def stale(gaps: Mapping[int, bytes]) -> str:
    """Which bytes of a record's gaps are not zero: ``40–43 d0130100, 90 01``."""
    told = [(offset, data) for offset, data in gaps.items() if any(data)]
    return ", ".join(f"{offset}–{offset + len(data) - 1} {data.hex()}" for offset, data in told)


def _used(connection: ConnTuple) -> int:
    """How many of a tuple's 36 bytes hold something."""
    return 2 * len(connection.src.packed) + 4


@dataclass(frozen=True)
class AuthRequest:
    """An authorization request: the connection, client to server."""

    tuple: ConnTuple
    raw: bytes = field(repr=False, compare=False)
    gaps: dict[int, bytes] = field(repr=False, compare=False)

    @property
    def unused(self) -> bytes:
        """The bytes that hold nothing: zero in a record that was zeroed before it was filled."""
        return b"".join(self.gaps.values())

    def __str__(self) -> str:
        return str(self.tuple)

    @classmethod
    def decode(cls, data: bytes, layout: Layout, ports: PortOrder) -> AuthRequest:
        _sized(data, layout.size, "an authorization request")
        version = _version(layout.number(data, "type"), data)
        connection = decode_tuple(layout.part(data, "tuple"), ports, version)
        return cls(connection, data, layout.unused(data, {"tuple": _used(connection)}))

    @property
    def stale(self) -> str:
        """Which of the unused bytes are not zero, in words; empty where all are."""
        return stale(self.gaps)


@dataclass(frozen=True)
class ObserveRecord:
    """What a host reports of a connection when it is established and when it is closed.

    ``tuple`` runs client to server on both sides. ``orig_dst`` is what the client asked for, None
    on an INBOUND record. Every other field of the era's record is an attribute too; of one that the
    era's records do not have, `Absent` says so. Bytes are payload bytes (a FIN counts one in
    ``sent_bytes``), times (``duration_ns``, ``start_ns``, …) nanoseconds of CLOCK_MONOTONIC,
    ``srtt_us`` eighths of a microsecond, ``rtt_min`` microseconds.
    """

    tuple: ConnTuple
    direction: Direction
    state: TcpState
    conn_success: bool
    values: dict[str, int]
    destination: Destination | None
    layout: Layout = field(repr=False, compare=False)
    raw: bytes = field(repr=False, compare=False)

    @classmethod
    def decode(cls, data: bytes, layout: Layout, ports: PortOrder) -> ObserveRecord:
        _sized(data, layout.size, "an observe record")
        version = _version(layout.number(data, "type"), data)
        try:
            direction = Direction(layout.number(data, "direction"))
            state = TcpState(layout.number(data, "state"))
        except ValueError as error:
            raise MalformedRecord(f"an observe record: {error}: {data.hex()}") from error
        destination = None
        if "orig_dst" in layout.fields:
            destination = _decode_destination(layout.part(data, "orig_dst"), version, ports)
        return cls(
            tuple=decode_tuple(layout.part(data, "tuple"), ports, version),
            direction=direction,
            state=state,
            conn_success=bool(layout.number(data, "conn_success")),
            values=layout.numbers(data),
            destination=destination,
            layout=layout,
            raw=data,
        )

    @property
    def orig_dst(self) -> Destination | None:
        if "orig_dst" not in self.layout.fields:
            raise Absent(f"{self.layout.about}: its records do not say which address the client asked for")
        return self.destination

    @property
    def duration_ns(self) -> int:
        return self.number("duration")

    def number(self, name: str) -> int:
        """A field by its name in the profile. `Absent` where the era has none."""
        if name not in self.values:
            raise Absent(f"{self.layout.about}: its records have no {name}")
        return self.values[name]

    def __getattr__(self, name: str) -> int:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.number(name)

    @property
    def unused(self) -> bytes:
        """The bytes that hold nothing: zero in a record that was zeroed before it was filled."""
        return b"".join(self._unused().values())

    def _unused(self) -> dict[int, bytes]:
        destination = len(self.tuple.dst.packed) + 2
        return self.layout.unused(self.raw, {"tuple": _used(self.tuple), "orig_dst": destination})

    @property
    def stale(self) -> str:
        """Which bytes that hold nothing are not zero, in words; empty where all are."""
        return stale(self._unused())

    @property
    def event(self) -> Event:
        """Which of a connection's records it is."""
        return self.direction, self.state

    def __str__(self) -> str:
        asked = f" asked for {endpoint(*self.destination)}" if self.destination else ""
        return (
            f"{self.direction.name}/{self.state.name} {self.tuple}{asked}"
            f" sent={self.sent_bytes} received={self.received_bytes}"
            f" duration={self.duration_ns / 1000:.0f} µs"
        )


@dataclass(frozen=True)
class AccessRecord:
    """What v0.4.0 reports of a connection when it is closed. ``tuple`` runs client to server."""

    tuple: ConnTuple
    direction: Direction
    conn_success: bool
    sent_bytes: int
    received_bytes: int
    duration_ns: int

    @classmethod
    def decode(cls, data: bytes, layout: Layout, ports: PortOrder) -> AccessRecord:
        _sized(data, layout.size, "an access log record")
        return cls(
            decode_tuple(layout.part(data, "tuple"), ports),
            Direction(layout.number(data, "direction")),
            bool(layout.number(data, "conn_success")),
            *(layout.number(data, name) for name in ("sent_bytes", "received_bytes", "duration")),
        )


def _decode_destination(data: bytes, version: int, ports: PortOrder) -> Destination | None:
    size = 4 if version == 4 else 16
    if not any(data[: size + 2]):
        return None
    return _address(data[:size]), int.from_bytes(data[size : size + 2], ports)


@dataclass(frozen=True)
class Storage:
    """A socket's storage. ``asked_for`` is the original destination, None where no connect() set it.

    What an era's storage has no field for must be left at its default when it is written (`Absent`),
    and has it when it was read.
    """

    connect_ns: int = 0
    last_report_ns: int = 0
    direction: int = 0
    connect_success: bool = False
    via_waypoint: bool = False
    has_encoded: bool = False
    has_set_ip: bool = False
    asked_for: Destination | None = None

    def encode(self, layout: Layout, ports: PortOrder) -> bytes:
        data = bytearray(layout.size)
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name not in layout.fields:
                if value != each.default:
                    raise Absent(f"{layout.about}: a socket's storage has no {each.name}")
            elif each.name == "asked_for":
                layout.put(data, each.name, _encode_asked_for(value, ports))
            else:
                layout.put(data, each.name, int(value))
        return bytes(data)

    @classmethod
    def decode(cls, data: bytes, layout: Layout, ports: PortOrder) -> Storage:
        values: dict[str, Any] = {}
        for each in fields(cls):
            if each.name == "asked_for" and each.name in layout.fields:
                part = layout.part(data, each.name)
                decoded = decode_tuple(part, ports)
                values[each.name] = (decoded.dst, decoded.dport) if any(part) else None
            elif each.name in layout.fields:
                number = layout.number(data, each.name)
                values[each.name] = bool(number) if each.type == "bool" else number
        return cls(**values)


def _encode_asked_for(asked_for: Destination | None, ports: PortOrder) -> bytes:
    if asked_for is None:
        return bytes(TUPLE_SIZE)
    address, port = asked_for
    nowhere = ipaddress.ip_address(bytes(len(address.packed)))
    return encode_tuple(ConnTuple(nowhere, 0, address, port), ports)


def waypoint_metadata(address: Address, port: int) -> bytes:
    """What is written once ahead of the first payload byte: the original destination, then the end.

    ``01 | be32 length | address | be16 port | fe | be32 0``.
    """
    value = address.packed + port.to_bytes(2, "big")
    return b"\x01" + len(value).to_bytes(4, "big") + value + b"\xfe" + bytes(4)
