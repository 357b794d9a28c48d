"""Keys, values and records as Python values. Addresses are `ipaddress` objects, ports ints.

Layouts are those of the era "main" (Kmesh since v1.1), on a little-endian machine.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import HOST_ORDER, NETWORK_ORDER, Direction, PortOrder
from testbed.lab.family import Address, ConnTuple, endpoint

Destination = tuple[Address, int]
Event = tuple[Direction, TcpState]

TUPLE_SIZE = 36  # struct bpf_sock_tuple
_TYPE_IPV4, _TYPE_IPV6 = 0, 1
_OBSERVE = struct.Struct("=I36s20s IIIII QQQ IIIII I")
_STORAGE = struct.Struct("=QQ BBBBB3x 36s4x")


class MalformedRecord(AssertionError):
    """A record that no program keeping the contract writes: a size, type or state that is none."""


def encode_address_key(address: Address) -> bytes:
    """A key of the managed map: 16 bytes; an IPv4 address is followed by zeroes."""
    return address.packed.ljust(16, b"\0")


def decode_address_key(key: bytes) -> Address:
    """The address of a managed key. One whose last 12 bytes are zero is taken for IPv4."""
    return ipaddress.ip_address(key if any(key[4:]) else key[:4])


def encode_tuple(connection: ConnTuple, ports: PortOrder) -> bytes:
    """``struct bpf_sock_tuple``, 36 bytes; an IPv4 tuple is 12 bytes and 24 zeroes."""
    data = connection.src.packed + connection.dst.packed
    data += connection.sport.to_bytes(2, ports) + connection.dport.to_bytes(2, ports)
    return data.ljust(TUPLE_SIZE, b"\0")


def decode_tuple(data: bytes, ports: PortOrder, version: int | None = None) -> ConnTuple:
    """A tuple of an IP version; without one, 24 zeroes at the end tell an IPv4 tuple."""
    if version is None:
        version = 6 if any(data[12:]) else 4
    size = 4 if version == 4 else 16
    return ConnTuple(
        ipaddress.ip_address(data[:size]),
        int.from_bytes(data[2 * size : 2 * size + 2], ports),
        ipaddress.ip_address(data[size : 2 * size]),
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


def _used(connection: ConnTuple) -> int:
    """How many of a tuple's 36 bytes hold something."""
    return 2 * len(connection.src.packed) + 4


@dataclass(frozen=True)
class AuthRequest:
    """An authorization request: the connection, client to server."""

    tuple: ConnTuple
    raw: bytes = field(repr=False, compare=False)

    def __str__(self) -> str:
        return str(self.tuple)

    @property
    def unused(self) -> bytes:
        """The bytes that hold nothing: zero in a record that was zeroed before it was filled."""
        return self.raw[4 + _used(self.tuple) :]

    @classmethod
    def decode(cls, data: bytes, ports: PortOrder = HOST_ORDER) -> AuthRequest:
        _sized(data, 4 + TUPLE_SIZE, "an authorization request")
        version = _version(int.from_bytes(data[:4], "little"), data)
        return cls(decode_tuple(data[4:], ports, version), data)


@dataclass(frozen=True)
class ObserveRecord:
    """What a host reports of a connection when it is established and when it is closed.

    ``tuple`` runs client to server on both sides. ``orig_dst`` is what the client asked for, None
    on an INBOUND record. Bytes are payload bytes (a FIN counts one in ``sent_bytes``), times
    nanoseconds of CLOCK_MONOTONIC, ``srtt_us`` eighths of a microsecond, ``rtt_min`` microseconds.
    """

    tuple: ConnTuple
    orig_dst: Destination | None
    direction: Direction
    state: TcpState
    conn_success: bool
    sent_bytes: int
    received_bytes: int
    duration_ns: int
    start_ns: int
    last_report_ns: int
    protocol: int
    srtt_us: int
    rtt_min: int
    total_retrans: int
    lost_out: int
    raw: bytes = field(repr=False, compare=False)

    @classmethod
    def decode(cls, data: bytes, ports: PortOrder = HOST_ORDER) -> ObserveRecord:
        kind, connection, orig_dst, *rest = _OBSERVE.unpack(_sized(data, _OBSERVE.size, "an observe record"))
        sent, received, success, direction, state, duration, start, last, protocol, srtt, rtt, *tail = rest
        version = _version(kind, data)
        try:
            direction, state = Direction(direction), TcpState(state)
        except ValueError as error:
            raise MalformedRecord(f"an observe record: {error}: {data.hex()}") from error
        return cls(
            tuple=decode_tuple(connection, ports, version),
            orig_dst=_decode_destination(orig_dst, version, ports),
            direction=direction,
            state=state,
            conn_success=bool(success),
            sent_bytes=sent,
            received_bytes=received,
            duration_ns=duration,
            start_ns=start,
            last_report_ns=last,
            protocol=protocol,
            srtt_us=srtt,
            rtt_min=rtt,
            total_retrans=tail[0],
            lost_out=tail[1],
            raw=data,
        )

    @property
    def unused(self) -> bytes:
        """The bytes that hold nothing: zero in a record that was zeroed before it was filled."""
        destination = 0 if self.orig_dst is None else len(self.tuple.dst.packed) + 2
        parts = (self.raw[4 + _used(self.tuple) : 40], self.raw[40 + destination : 60], self.raw[124:])
        return b"".join(parts)

    @property
    def event(self) -> Event:
        """Which of a connection's records it is."""
        return self.direction, self.state

    def __str__(self) -> str:
        asked = f" asked for {endpoint(*self.orig_dst)}" if self.orig_dst else ""
        return (
            f"{self.direction.name}/{self.state.name} {self.tuple}{asked}"
            f" sent={self.sent_bytes} received={self.received_bytes}"
            f" duration={self.duration_ns / 1000:.0f} µs"
        )


def _decode_destination(data: bytes, version: int, ports: PortOrder) -> Destination | None:
    if not any(data):
        return None
    size = 4 if version == 4 else 16
    return ipaddress.ip_address(data[:size]), int.from_bytes(data[size : size + 2], ports)


@dataclass(frozen=True)
class LogEvent:
    """An error that the program reported about itself."""

    ret: int
    message: str

    @classmethod
    def decode(cls, data: bytes) -> LogEvent:
        text = data[4:].partition(b"\0")[0].decode(errors="backslashreplace")
        return cls(int.from_bytes(data[:4], "little", signed=True), text.rstrip())

    def __str__(self) -> str:
        return f"{self.message} (ret {self.ret})"


@dataclass(frozen=True)
class Storage:
    """A socket's storage. ``asked_for`` is the original destination, None where no connect() set it."""

    connect_ns: int = 0
    last_report_ns: int = 0
    direction: int = 0
    connect_success: bool = False
    via_waypoint: bool = False
    has_encoded: bool = False
    has_set_ip: bool = False
    asked_for: Destination | None = None

    def encode(self, ports: PortOrder = NETWORK_ORDER) -> bytes:
        connection = b""
        if self.asked_for is not None:
            address, port = self.asked_for
            nowhere = ipaddress.ip_address(bytes(len(address.packed)))
            connection = encode_tuple(ConnTuple(nowhere, 0, address, port), ports)
        return _STORAGE.pack(
            self.connect_ns,
            self.last_report_ns,
            self.direction,
            self.connect_success,
            self.via_waypoint,
            self.has_encoded,
            self.has_set_ip,
            connection,
        )

    @classmethod
    def decode(cls, data: bytes, ports: PortOrder = NETWORK_ORDER) -> Storage:
        connect_ns, last_report_ns, direction, *flags, connection = _STORAGE.unpack(data)
        decoded = decode_tuple(connection, ports)
        return cls(
            connect_ns=connect_ns,
            last_report_ns=last_report_ns,
            direction=direction,
            connect_success=bool(flags[0]),
            via_waypoint=bool(flags[1]),
            has_encoded=bool(flags[2]),
            has_set_ip=bool(flags[3]),
            asked_for=(decoded.dst, decoded.dport) if any(connection) else None,
        )


def waypoint_metadata(address: Address, port: int) -> bytes:
    """What is written once ahead of the first payload byte: the original destination, then the end.

    ``01 | be32 length | address | be16 port | fe | be32 0``.
    """
    value = address.packed + port.to_bytes(2, "big")
    return b"\x01" + len(value).to_bytes(4, "big") + value + b"\xfe" + bytes(4)
