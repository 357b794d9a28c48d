"""Who fills in TCP's checksums: a device as it sends, or the kernel before (ethtool, ``tx-checksumming``).

A veth has nothing that could fill them in, and says that it has: its peer's kernel takes a packet
without one for good, whatever has become of it meanwhile.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_GET_TX_CHECKSUM, _SET_TX_CHECKSUM = 0x16, 0x17  # ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM
_VALUE = struct.Struct("=II")  # struct ethtool_value
_REQUEST = struct.Struct("@16sP16x")  # struct ifreq with a pointer


def offloads_checksums(sock: socket.socket, name: str) -> bool:
    """Whether a device of the socket's namespace is left to fill in checksums. `OSError` as of ioctl(2)."""
    return bool(_ethtool(sock, name, _GET_TX_CHECKSUM, 0))


def offload_checksums(sock: socket.socket, name: str, on: bool) -> None:
    """From now on it is, or is not. Without, the kernel cuts what it sends into segments itself, too."""
    _ethtool(sock, name, _SET_TX_CHECKSUM, int(on))


def _ethtool(sock: socket.socket, name: str, command: int, value: int) -> int:
    buffer = ctypes.create_string_buffer(_VALUE.pack(command, value), _VALUE.size)
    fcntl.ioctl(sock, _SIOCETHTOOL, _REQUEST.pack(name.encode(), ctypes.addressof(buffer)))
    answer: int = _VALUE.unpack(buffer.raw)[1]
    return answer
