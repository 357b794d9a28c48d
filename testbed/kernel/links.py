"""Links of hosts: veths made in place, bridges, and a quiet wire.

Quiet means that nothing but the test's own packets is on it: no neighbour discovery, no duplicate
address detection, no router solicitations, no multicast reports. So a capture can be asserted
exactly, and the first connect() never loses its SYN.

How: the links have IFF_NOARP, under which the kernel joins no solicited-node groups (and so
reports none) and takes a device's own MAC for that of every neighbour. Both ends of a veth have the
same one, so that this is right for any address, also one that a test adds later. Clearing the flag
once all is up would not do: it starts detection and reports again (``addrconf_notify``).

A bridge goes by the destination's MAC, so behind one every end has a MAC of its own, and none of that
is right. There each end is told all others' addresses (permanent neighbours) and the bridge which MAC
is behind which port (static entries): without the latter it would send the first packet to a host out
of every port. IFF_NOARP stays, for the groups; an address that nobody was told of gets the sender's own
MAC, which the bridge knows to be where the packet came from, and drops. That is n² neighbours: a lab of
200 hosts on one bridge has 80,000, and comes up in 0.6 s. One MAC for all instead would need a bridge
that sends everything everywhere, and a MAC that a port has too is the bridge's own: it would keep the
packets. The bridge has no spanning tree and no delay, so that a port forwards as soon as it is up, and
no multicast snooping, which asks who listens.

A host that forwards IPv6 would join the group of all routers on each device, and report that. Its
devices have no IFF_MULTICAST, and it forwards only once they are there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache, lru_cache

from testbed.kernel.ends import RTM_NEWLINK, Address, End, await_ready, classes
from testbed.kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, Message, encode
from testbed.kernel.routes import add_address, neighbour, route

__all__ = [
    "FORWARDING_SYSCTLS",
    "LATE_FORWARDING_SYSCTLS",
    "QUIET_SYSCTLS",
    "End",
    "add_address",
    "await_ready",
    "bridge",
    "bring_up",
    "loopback_up",
    "neighbour",
    "veth",
]

LOOPBACK_INDEX = 1  # of every new namespace

_IFF_UP, _IFF_NOARP, _IFF_MULTICAST = 0x1, 0x80, 0x1000
_FD_PLACE = 0x7E57FD00  # stands for a descriptor in a cached message

# New interfaces of a namespace take these from "default". Link-local addresses are not generated:
# they are what router solicitations are sent from. IPv4 settings come from the host otherwise.
QUIET_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/addr_gen_mode": "1",
    "net/ipv4/tcp_max_tw_buckets": "131072",  # the kernel goes by its table's size
}
# Of hosts that forward. An IPv4 redirect would tell a neighbour of a shorter way.
FORWARDING_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
}
# Only once their devices are there, without IFF_MULTICAST: with it they join the group of all routers, and
# report that (``dev_forward_change``); when a device is made it has the flag, whatever was asked for.
LATE_FORWARDING_SYSCTLS = {"net/ipv6/conf/all/forwarding": "1"}


def _flags_of(end: End) -> tuple[int, int]:
    """Its flags besides IFF_UP, and which of them are set so."""
    return _IFF_NOARP, _IFF_NOARP | (_IFF_MULTICAST if end.forwards else 0)


def _named(end: End) -> list[tuple[str, object]]:
    attributes: list[tuple[str, object]] = [("IFLA_IFNAME", end.name), ("IFLA_ADDRESS", end.mac)]
    return attributes if end.mtu is None else [*attributes, ("IFLA_MTU", end.mtu)]


@lru_cache(maxsize=4096)
def _veth_template(end: End, peer: End) -> Message:
    flags, change = _flags_of(end)
    peer_flags, peer_change = _flags_of(peer)
    peer_part = {
        "index": peer.index,
        "flags": peer_flags,  # an end comes up only with its peer there, so this one later
        "change": peer_change,
        "attrs": [*_named(peer), ("IFLA_NET_NS_FD", _FD_PLACE)],
    }
    return encode(
        f"make the veth {end.name} – {peer.name}",
        classes()["link"],
        RTM_NEWLINK,
        {
            "index": end.index,
            "flags": flags | _IFF_UP,
            "change": change | _IFF_UP,
            "attrs": [
                *_named(end),
                (
                    "IFLA_LINKINFO",
                    {
                        "attrs": [
                            ("IFLA_INFO_KIND", "veth"),
                            ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer_part)]}),
                        ]
                    },
                ),
            ],
        },
        flags=NLM_F_CREATE | NLM_F_EXCL,
    )


def veth(end: End, peer: End, peer_netns_fd: int) -> Message:
    """Makes both ends of a veth, each in its own namespace from the start.

    The first is up, the other one not yet.
    """
    template = _veth_template(end, peer)
    place = struct.pack("=I", _FD_PLACE)
    return Message(template.what, template.data.replace(place, struct.pack("=I", peer_netns_fd), 1))


@lru_cache(maxsize=4096)
def bridge(end: End) -> Message:
    """Makes a bridge, up. Its ports forward at once, and it sends nothing itself."""
    settings = [
        ("IFLA_BR_FORWARD_DELAY", 0),
        ("IFLA_BR_STP_STATE", 0),
        ("IFLA_BR_MCAST_SNOOPING", 0),
    ]
    kind = [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": settings})]
    flags, change = _flags_of(end)
    return encode(
        f"make the bridge {end.name}",
        classes()["link"],
        RTM_NEWLINK,
        {
            "index": end.index,
            "flags": flags | _IFF_UP,
            "change": change | _IFF_UP,
            "attrs": [
                ("IFLA_IFNAME", end.name),
                ("IFLA_ADDRESS", end.mac),
                ("IFLA_LINKINFO", {"attrs": kind}),
            ],
        },
        flags=NLM_F_CREATE | NLM_F_EXCL,
    )


@lru_cache(maxsize=4096)
def _up(name: str, index: int, port_of: int | None = None) -> Message:
    return encode(
        f"bring up {name}" if port_of is None else f"bring up {name} as the port of a bridge",
        classes()["link"],
        RTM_NEWLINK,
        {
            "index": index,
            "flags": _IFF_UP,
            "change": _IFF_UP,
            "attrs": [] if port_of is None else [("IFLA_MASTER", port_of)],
        },
    )


@cache
def loopback_up() -> Message:
    """The loopback up, with its addresses."""
    return _up("lo", LOOPBACK_INDEX)


def bring_up(end: End, gateways: Sequence[Address] = ()) -> list[Message]:
    """Up, with its addresses and default routes. `await_ready` is next: then they are really there."""
    return [
        _up(end.name, end.index, end.port_of),
        *(add_address(end, interface) for interface in end.addresses),
        *(route(end, gateway) for gateway in gateways),
    ]
