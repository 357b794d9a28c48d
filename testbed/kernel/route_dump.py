"""The routes of a network namespace, as the kernel tells them (rtnetlink, RTM_GETROUTE)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from testbed.kernel.netlink import NLM_F_DUMP, NLM_F_REQUEST, dump

_RTM_GETROUTE = 26
_REQUEST = struct.Struct("=IHHII B11x")  # nlmsghdr, then struct rtmsg: any family
_RT_TABLE_MAIN, _RTN_UNICAST = 254, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_SIZE = 12  # of struct rtmsg
_LOOPBACK = 1


@dataclass(frozen=True)
class Route:
    """A route of the main table: ``gateway`` is None for what is on the link of ``interface`` (an index)."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    gateway: ipaddress.IPv4Address | ipaddress.IPv6Address | None
    interface: int


def routes(sock: socket.socket) -> list[Route]:
    """The unicast routes of both main tables, but the loopback's. ``sock`` is a NETLINK_ROUTE one."""
    request = _REQUEST.pack(_REQUEST.size, _RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, 1, 0, socket.AF_UNSPEC)
    return [route for payload in dump(sock, request) if (route := _parse(payload)) is not None]


def _parse(payload: bytes) -> Route | None:
    family, length, _, _, table, _, _, kind = payload[:8]
    if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST or family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    attributes = dict(_attributes(payload))
    (interface,) = struct.unpack("=I", attributes.get(_RTA_OIF, bytes(4)))
    if interface == _LOOPBACK:
        return None
    size = 4 if family == socket.AF_INET else 16
    network = ipaddress.ip_network((attributes.get(_RTA_DST, bytes(size)), length))
    gateway = attributes.get(_RTA_GATEWAY)
    return Route(network, ipaddress.ip_address(gateway) if gateway else None, interface)


def _attributes(payload: bytes) -> Iterator[tuple[int, bytes]]:
    offset = _SIZE
    while offset + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, offset)
        yield kind, payload[offset + 4 : offset + length]
        offset += max((length + 3) & ~3, 4)
