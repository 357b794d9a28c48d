"""What is in a frame: a TCP segment, or something else, in words.

Taken apart by `struct`: scapy would need a hundred times as long, and a test has thousands of them at worst.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntFlag
from functools import lru_cache
from typing import NamedTuple

from testbed.lab.family import ConnTuple, unmapped_bytes

_ETHERNET, _VLAN = 14, 4
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_TAGS = {0x8100, 0x88A8}
_TCP = 6
_EXTENSIONS = {0, 43, 60, 135}  # hop-by-hop, routing, destination, mobility: (next, length in 8 bytes − 1)
_FRAGMENT, _AUTHENTICATION = 44, 51
_TCP_HEADER = struct.Struct("!HHIIBBHHH")
_PROTOCOLS = {1: "ICMP", 2: "IGMP", 17: "UDP", 47: "GRE", 58: "ICMPv6", 132: "SCTP"}
_END, _NOTHING = 0, 1
_OPTIONS = {2: "MSS", 3: "WSCALE", 4: "SACK_OK", 5: "SACK", 8: "TIMESTAMP", 34: "FAST_OPEN"}

Option = int | bool | str | tuple[int, int] | tuple[tuple[int, int], ...]


class TcpFlag(IntFlag):
    """Flags of a TCP header (RFC 9293, 3.1; RFC 3168)."""

    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    ECE = 64
    CWR = 128


class Segment(NamedTuple):
    """A TCP segment, from its sender to its receiver. Mapped addresses are IPv4; numbers as on the wire.

    ``payload`` is what was captured of it, ``payload_length`` what it has. ``options`` by name: MSS (bytes),
    WSCALE (shift), SACK_OK, SACK (ranges of sequence numbers), TIMESTAMP (value, echo), FAST_OPEN (the
    cookie in hex); others are ``option N``. Those, and known ones of a strange length, are their data in hex.
    """

    tuple: ConnTuple
    flags: TcpFlag
    seq: int
    ack: int
    window: int
    payload: bytes
    payload_length: int
    options: Mapping[str, Option]
    hop_limit: int

    def __str__(self) -> str:
        """``10.0.0.1:4000 → 10.0.0.2:80 SYN,ACK seq 7 ack 9 window 64240``."""
        names = ",".join(flag.name or "?" for flag in self.flags) or "no flag"
        ack = f" ack {self.ack}" if self.flags & TcpFlag.ACK else ""
        data = f" {self.payload_length} B" if self.payload_length else ""
        options = "".join(f" {name}={value}" for name, value in self.options.items() if name != "TIMESTAMP")
        return f"{self.tuple} {names} seq {self.seq}{ack} window {self.window}{data}{options}"


def decode_frame(data: bytes, length: int | None = None) -> Segment | str:
    """The TCP segment in an Ethernet frame; of any other frame, what it is in words.

    ``length`` is the frame's on the wire, where ``data`` is not all of it. A fragment of an IP packet
    and one whose headers are not whole are words too. Checksums are not looked at.
    """
    length = max(length or 0, len(data))
    try:
        protocol, at = _ethernet(data)
        if protocol == _IPV4:
            return _ipv4(data, at, length)
        if protocol == _IPV6:
            return _ipv6(data, at, length)
    except (struct.error, IndexError):
        return f"a frame of {length} B that is cut short"
    name = "ARP" if protocol == _ARP else f"protocol 0x{protocol:04x}"
    return f"{name}, {length} B"


def _ethernet(data: bytes) -> tuple[int, int]:
    """(protocol, where its packet begins), behind any VLAN tags."""
    at = _ETHERNET
    (protocol,) = struct.unpack_from("!H", data, at - 2)
    while protocol in _TAGS:
        at += _VLAN
        (protocol,) = struct.unpack_from("!H", data, at - 2)
    return protocol, at


def _ipv4(data: bytes, at: int, length: int) -> Segment | str:
    header = 4 * (data[at] & 0x0F)
    total, _, fragment, hop_limit, protocol = struct.unpack_from("!HHHBB", data, at + 2)
    source, destination = data[at + 12 : at + 16], data[at + 16 : at + 20]
    if header < 20 or len(destination) < 4:
        return f"IPv4 that is cut short, {length} B"
    # 0 of a packet that offload has yet to cut (Linux 6.3: larger than 64 KiB)
    end = at + total if total else length
    if protocol != _TCP or fragment & 0x3FFF:
        return _other(4, source, destination, protocol, bool(fragment & 0x3FFF), end - at - header)
    return _tcp(data, at + header, end, source, destination, hop_limit)


def _ipv6(data: bytes, at: int, length: int) -> Segment | str:
    size, following, hop_limit = struct.unpack_from("!HBB", data, at + 4)
    source, destination = data[at + 8 : at + 24], data[at + 24 : at + 40]
    if len(destination) < 16:
        return f"IPv6 that is cut short, {length} B"
    at += 40
    end = at + size if size else length
    fragment = False
    while following in _EXTENSIONS or following in {_FRAGMENT, _AUTHENTICATION}:
        if following == _FRAGMENT:
            (offset,) = struct.unpack_from("!H", data, at + 2)
            fragment, step = bool(offset & 0xFFF9), 8
        else:
            step = 4 * (data[at + 1] + 2) if following == _AUTHENTICATION else 8 * (data[at + 1] + 1)
        following = data[at]
        at += step
        if fragment:
            break
    if following != _TCP or fragment:
        return _other(6, source, destination, following, fragment, end - at)
    return _tcp(data, at, end, source, destination, hop_limit)


def _other(version: int, source: bytes, destination: bytes, protocol: int, fragment: bool, size: int) -> str:
    name = "TCP" if protocol == _TCP else _PROTOCOLS.get(protocol, f"protocol {protocol}")
    ends = f"{unmapped_bytes(source)} → {unmapped_bytes(destination)}"
    return f"{'a fragment of ' if fragment else ''}{name} over IPv{version}, {ends}, {max(size, 0)} B"


def _tcp(data: bytes, at: int, end: int, source: bytes, destination: bytes, hop_limit: int) -> Segment | str:
    sport, dport, seq, ack, offset, flags, window, _, _ = _TCP_HEADER.unpack_from(data, at)
    header = 4 * (offset >> 4)
    if header < _TCP_HEADER.size or at + header > min(end, len(data)):
        ends = f"{unmapped_bytes(source)} → {unmapped_bytes(destination)}"
        return f"TCP whose header is not whole, {ends}"
    return Segment(
        ConnTuple(unmapped_bytes(source), sport, unmapped_bytes(destination), dport),
        TcpFlag(flags),
        seq,
        ack,
        window,
        data[at + header : end],
        end - at - header,
        _options(data[at + _TCP_HEADER.size : at + header]),
        hop_limit,
    )


@lru_cache(maxsize=256)
def _options(data: bytes) -> dict[str, Option]:
    """Until the end of the list, or until one that is not whole."""
    found: dict[str, Option] = {}
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _NOTHING:
            at += 1
            continue
        size = data[at + 1] if at + 1 < len(data) else 0
        if size < 2 or at + size > len(data):
            break
        name, value = _option(data[at], data[at + 2 : at + size])
        found[name] = value
        at += size
    return found


def _option(kind: int, value: bytes) -> tuple[str, Option]:
    found: Option = value.hex()
    if (kind, len(value)) in {(2, 2), (3, 1)}:
        found = int.from_bytes(value, "big")
    elif (kind, len(value)) == (4, 0):
        found = True
    elif kind == 5 and len(value) % 8 == 0:
        found = tuple(struct.iter_unpack("!II", value))
    elif (kind, len(value)) == (8, 8):
        found = struct.unpack("!II", value)
    return _OPTIONS.get(kind, f"option {kind}"), found
