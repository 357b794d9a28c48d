"""Addresses, routes and neighbours of an end, as netlink requests."""

from __future__ import annotations

import ipaddress
import struct
from functools import lru_cache

from testbed.kernel.ends import (
    RTM_NEWADDR,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    Address,
    End,
    Interface,
    classes,
    family_of,
)
from testbed.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    Message,
    encode,
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_IFA_F_NODAD = 0x02
_FOR_EVER = 0xFFFFFFFF
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1
_AF_BRIDGE = 7
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_MASTER = 0x04
_NDA_DST, _NDA_LLADDR = 1, 2
_NEIGHBOUR = struct.Struct("=IHHIIBxxxiHBx")  # struct nlmsghdr, struct ndmsg
_ATTRIBUTE = struct.Struct("=HH")


@lru_cache(maxsize=4096)
def add_address(end: End, interface: Interface, *, preferred: bool = True) -> Message:
    """Gives an end one address more; `await_ready` is next.

    One that is not preferred is no source but of sockets that are bound to it. (Of IPv4 addresses in
    one network the first is preferred, of IPv6 addresses the last.)
    """
    attributes: list[tuple[str, object]] = [
        ("IFA_ADDRESS", str(interface.ip)),
        ("IFA_LOCAL", str(interface.ip)),
    ]
    if not preferred:
        attributes.append(("IFA_CACHEINFO", {"ifa_preferred": 0, "ifa_valid": _FOR_EVER}))
    return encode(
        f"add {interface} to {end.name}",
        classes()["address"],
        RTM_NEWADDR,
        {
            "family": family_of(interface.ip),
            "prefixlen": interface.network.prefixlen,
            "index": end.index,
            "flags": _IFA_F_NODAD if interface.version == 6 else 0,
            "attrs": attributes,
        },
        flags=NLM_F_CREATE | NLM_F_EXCL,
    )


@lru_cache(maxsize=4096)
def route(end: End, gateway: Address, to: Network | None = None) -> Message:
    """What is not on a link goes to the gateway: all of it, or what is for a network alone.

    That of the control address needs a route, not a host.
    """
    attributes: list[tuple[str, object]] = [("RTA_GATEWAY", str(gateway)), ("RTA_OIF", end.index)]
    if to is not None:
        attributes.append(("RTA_DST", str(to.network_address)))
    return encode(
        f"add the {'default route' if to is None else f'route to {to}'} by {gateway} to {end.name}",
        classes()["route"],
        RTM_NEWROUTE,
        {
            "family": family_of(gateway),
            "dst_len": 0 if to is None else to.prefixlen,
            "table": _RT_TABLE_MAIN,
            "proto": _RTPROT_STATIC,
            "type": _RTN_UNICAST,
            "attrs": attributes,
        },
        flags=NLM_F_CREATE,
    )


def neighbour(end: End, address: Address, mac: str) -> Message:
    """From now on what an end sends to a neighbour's address goes to that MAC."""
    return Message(
        f"set the neighbour {address} of {end.name} to {mac}",
        _neighbour(family_of(address), end.index, _NUD_PERMANENT, 0, mac, address.packed),
    )


def behind_port(port: End, mac: str) -> Message:
    """From now on a bridge sends what is for a MAC out of this port of it alone; it need not learn that."""
    return Message(
        f"put {mac} behind {port.name}",
        _neighbour(_AF_BRIDGE, port.index, _NUD_NOARP, _NTF_MASTER, mac),
    )


def _neighbour(family: int, index: int, state: int, flags: int, mac: str, address: bytes = b"") -> bytes:
    # By hand: on a bridge each of n ends has all others for neighbours.
    attributes = _attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
    if address:
        attributes = _attribute(_NDA_DST, address) + attributes
    head = _NEIGHBOUR.pack(
        _NEIGHBOUR.size + len(attributes),
        RTM_NEWNEIGH,
        NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE,
        0,
        0,
        family,
        index,
        state,
        flags,
    )
    return head + attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)
