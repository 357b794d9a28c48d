"""The four families that a connection can have, and what a connection is called by."""

from __future__ import annotations

import ipaddress
import socket
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Family(Enum):
    """How client and server meet."""

    V4 = "v4"
    V6 = "v6"
    MAPPED = "mapped"
    """An IPv4 client on an IPv6 listener that takes both (``::ffff:a.b.c.d``)."""
    MAPPED_CLIENT = "mapped-client"
    """An IPv6 client socket that connects to ``::ffff:a.b.c.d``, where an IPv4 listener is."""

    @property
    def client(self) -> socket.AddressFamily:
        """The family of the client's socket."""
        return socket.AF_INET6 if self in {Family.V6, Family.MAPPED_CLIENT} else socket.AF_INET

    @property
    def listener(self) -> socket.AddressFamily:
        """The family of the server's sockets."""
        return socket.AF_INET6 if self in {Family.V6, Family.MAPPED} else socket.AF_INET

    def as_client(self, address: Address) -> str:
        """An address as the client's socket takes it: ``::ffff:a.b.c.d`` for an IPv6 one."""
        return f"::ffff:{address}" if self is Family.MAPPED_CLIENT else str(address)

    @property
    def version(self) -> int:
        """The IP version on the wire."""
        return 6 if self is Family.V6 else 4


@lru_cache(maxsize=4096)
def unmapped(text: str) -> Address:
    """An address from its text; ``::ffff:a.b.c.d`` is the IPv4 address in it."""
    return _unmapped(ipaddress.ip_address(text.partition("%")[0]))


@lru_cache(maxsize=4096)
def unmapped_bytes(packed: bytes) -> Address:
    """An address from its 4 or 16 bytes; one of ``::ffff:0:0/96`` is the IPv4 address in it."""
    return _unmapped(ipaddress.ip_address(packed))


def _unmapped(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class ConnTuple(NamedTuple):
    """One connection, client to server. Ports in host order."""

    src: Address
    sport: int
    dst: Address
    dport: int

    def __str__(self) -> str:
        return f"{endpoint(self.src, self.sport)} → {endpoint(self.dst, self.dport)}"

    @property
    def reversed(self) -> ConnTuple:
        return ConnTuple(self.dst, self.dport, self.src, self.sport)

    @classmethod
    def of_client(cls, sock: socket.socket) -> ConnTuple:
        """The tuple of a connected client socket."""
        local, remote = sock.getsockname(), sock.getpeername()
        return cls(unmapped(local[0]), local[1], unmapped(remote[0]), remote[1])


def endpoint(address: Address, port: int) -> str:
    """``10.0.0.1:80`` or ``[fd00::1]:80``."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
