"""Segments that no kernel would send, put on the wire: plain ones, and any that scapy can make."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from testbed.acquired import acquired
from testbed.errors import UsageError
from testbed.lab.family import Address
from testbed.lab.host import Host

FIN, SYN, RST = 1, 2, 4
"""Flags of a TCP header."""
_IPV4, _IPV6 = struct.Struct("!BBHHHBBH4s4s"), struct.Struct("!IHBB16s16s")
_TCP = struct.Struct("!HHIIBBHHH")
_ETHERTYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}
_TTL, _WINDOW = 64, 8192  # scapy's


def segment(source: tuple[Address, int], destination: tuple[Address, int], **fields: Any) -> Any:
    """A TCP segment in its IP packet, as scapy's layers: ``fields`` are those of scapy's TCP.

    What they leave out scapy fills in: checksum, lengths, ``flags="S"``.
    """
    # importing scapy takes longer than a whole scenario
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6

    (src, sport), (dst, dport) = source, destination
    network = IP if src.version == 4 else IPv6
    return network(src=str(src), dst=str(dst)) / TCP(sport=sport, dport=dport, **fields)


def plain_segment(
    source: tuple[Address, int],
    destination: tuple[Address, int],
    *,
    flags: int = SYN,
    checksum: int | None = None,
    header_words: int = 5,
) -> bytes:
    """The same without options and data, in bytes, and without scapy, which takes 0.3 s to import.

    ``checksum`` is the right one, unless it is said; so is ``header_words``, which TCP calls the data offset.
    """
    (src, sport), (dst, dport) = source, destination
    words = (sport, dport, 0, 0, header_words << 4, flags, _WINDOW)
    pseudo = src.packed + dst.packed + struct.pack("!II", _TCP.size, socket.IPPROTO_TCP)
    right = internet_checksum(pseudo + _TCP.pack(*words, 0, 0))
    tcp = _TCP.pack(*words, right if checksum is None else checksum, 0)
    if src.version == 6:
        return _IPV6.pack(6 << 28, len(tcp), socket.IPPROTO_TCP, _TTL, src.packed, dst.packed) + tcp
    length = _IPV4.size + len(tcp)
    header = (0x45, 0, length, 1, 0, _TTL, socket.IPPROTO_TCP)
    right = internet_checksum(_IPV4.pack(*header, 0, src.packed, dst.packed))
    return _IPV4.pack(*header, right, src.packed, dst.packed) + tcp


def internet_checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def inject(host: Host, packets: Sequence[Any]) -> None:
    """Sends IP packets from a host's first interface, as they are: bytes, or scapy's."""
    end = host.ends[0]
    mac = bytes.fromhex(end.mac.replace(":", ""))
    with ExitStack() as stack:
        sock = host.socket(socket.AF_PACKET, socket.SOCK_RAW)
        acquired("packet socket", sock.fileno())
        stack.callback(host.namespace.let_go, sock)
        sock.bind((end.name, 0))
        for packet in packets:
            data = bytes(packet)
            sock.send(2 * mac + _ETHERTYPE[data[0] >> 4] + data)  # both ends of a link have one MAC


def nobodys_address(host: Host, version: int) -> Address:
    """An address on the host's link that no host has: no kernel answers for it with a RST."""
    for interface in host.ends[0].addresses:
        if interface.version == version:
            network = ipaddress.ip_network(interface.network)
            return network[network.num_addresses - 2 if version == 4 else 0xFFFE]
    raise UsageError(f"find an IPv{version} address beside {host.name}'s", "it has none")
