"""A held frame on its way again: from a packet socket of its sender, past the gate, and as it was.

Where the sender's kernel left the checksum to the device, and many segments in one frame, struct
virtio_net_hdr says so again (``include/uapi/linux/virtio_net.h``; PACKET_VNET_HDR, Linux 2.6.27).
"""

from __future__ import annotations

import socket
import struct

from testbed.kernel.links import End

_SOL_PACKET, _PACKET_VNET_HDR = 263, 15  # include/uapi/linux/if_packet.h
_HEADER = struct.Struct("=BBHHHH")  # struct virtio_net_hdr
_NEEDS_CHECKSUM, _GSO_NONE, _GSO_TCPV4, _GSO_TCPV6 = 1, 0, 1, 4
_ETHERNET, _SOURCE_AT, _GROUP = 14, 6, 1
_ETH_P_IPV4 = 0x0800
_CHECKSUM_AT = 16
_IPPROTO_TCP = 6


def prepared(sock: socket.socket) -> socket.socket:
    """A packet socket that `send_again` takes; it receives nothing. Returns it."""
    sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    return sock


def send_again(sock: socket.socket, end: End, frame: bytes, gso_size: int) -> None:
    """Sends a frame that was held from the end that it came from. `OSError` where that is gone."""
    (protocol,) = struct.unpack_from("!H", frame, _ETHERNET - 2)
    marked = bytearray(frame)
    marked[_SOURCE_AT] |= _GROUP  # no frame's source is a group: by that the gate knows it
    sock.sendto(_header(frame, protocol, gso_size) + marked, (end.name, protocol))


def _header(frame: bytes, protocol: int, gso_size: int) -> bytes:
    is_v4 = protocol == _ETH_P_IPV4
    if is_v4:
        network = (frame[_ETHERNET] & 0xF) * 4
        addresses = frame[_ETHERNET + 12 : _ETHERNET + 20]
    else:
        network = 40
        addresses = frame[_ETHERNET + 8 : _ETHERNET + 40]
    start = _ETHERNET + network
    if not gso_size and not _is_left_out(frame, start, addresses):
        return _HEADER.pack(0, _GSO_NONE, 0, 0, 0, 0)
    kind = _GSO_NONE if not gso_size else _GSO_TCPV4 if is_v4 else _GSO_TCPV6
    header_size = start + (frame[start + 12] >> 4) * 4
    return _HEADER.pack(_NEEDS_CHECKSUM, kind, header_size, gso_size, start, _CHECKSUM_AT)


def _is_left_out(frame: bytes, start: int, addresses: bytes) -> bool:
    """Whether only the pseudo header's sum is where the checksum belongs: the device adds the rest."""
    length = len(frame) - start
    total = sum(struct.unpack(f"!{len(addresses) // 2}H", addresses)) + _IPPROTO_TCP + length
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    (checksum,) = struct.unpack_from("!H", frame, start + _CHECKSUM_AT)
    return bool(checksum == total)
