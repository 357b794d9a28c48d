"""Links and addresses of hosts: veths made in place, and a quiet wire.

Quiet means that nothing but the test's own packets is on it: no neighbour discovery, no duplicate
address detection, no router solicitations, no multicast reports. So a capture can be asserted
exactly, and the first connect() never loses its SYN.

How: the links have IFF_NOARP, under which the kernel joins no solicited-node groups (and so
reports none) and takes a device's own MAC for that of every neighbour. Both ends of a veth have the
same one, so that this is right for any address, also one that a test adds later. Clearing the flag
once all is up would not do: it starts detection and reports again (``addrconf_notify``).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

from testbed.deadlines import scaled
from testbed.errors import MachineError
from testbed.kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Message, encode, execute

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOPBACK_INDEX = 1  # of every new namespace
READY_DEADLINE_S = scaled(5.0)

_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR = 20
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTM_NEWNEIGH = 28
_IFF_UP, _IFF_NOARP = 0x1, 0x80
_IFA_F_NODAD = 0x02
_IFLA_OPERSTATE, _OPERSTATE_UP = 16, 6
_RTEXT_FILTER_SKIP_STATS = 8  # Linux 4.4; summing them up takes longer than all the rest
_NUD_PERMANENT = 0x80
_FOR_EVER = 0xFFFFFFFF
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST, _RTN_LOCAL = 254, 4, 1, 2
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


@dataclass(frozen=True, eq=False)  # told apart by itself: addresses take long to compare
class End:
    """One end of a link as one host sees it."""

    name: str
    index: int
    mac: str
    addresses: tuple[Interface, ...]

    @cached_property
    def ips(self) -> tuple[Address, ...]:
        """Its addresses without their networks."""
        return tuple(interface.ip for interface in self.addresses)

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """What `await_ready` asks: its state, and the route to each own address."""
        up = Question(_get_link(self), _is_up, f"the state of {self.name} is not UP: is the other end?")
        return up, *(Question(_get_route(ip), _is_local, f"{ip} is not local") for ip in self.ips)


@dataclass(frozen=True)
class Question:
    """Whether something has come about: a request, what to make of its answer, words for when not."""

    message: Message
    is_so: Callable[[bytes], bool]
    missing: str


@cache
def _classes() -> dict[str, Callable[[], Any]]:
    # Importing pyroute2 takes longer than all the rest of a small command.
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    return {"link": ifinfmsg, "address": ifaddrmsg, "route": rtmsg, "neighbour": ndmsg}


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


@lru_cache(maxsize=4096)
def _veth_template(end: End, peer: End) -> Message:
    peer_part = {
        "index": peer.index,
        "flags": _IFF_NOARP,  # an end comes up only with its peer there, so this one later
        "change": _IFF_NOARP,
        "attrs": [
            ("IFLA_IFNAME", peer.name),
            ("IFLA_ADDRESS", peer.mac),
            ("IFLA_NET_NS_FD", _FD_PLACE),
        ],
    }
    return encode(
        f"make the veth {end.name} – {peer.name}",
        _classes()["link"],
        _RTM_NEWLINK,
        {
            "index": end.index,
            "flags": _IFF_UP | _IFF_NOARP,
            "change": _IFF_UP | _IFF_NOARP,
            "attrs": [
                ("IFLA_IFNAME", end.name),
                ("IFLA_ADDRESS", end.mac),
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
def _flags(name: str, index: int, flags: int, change: int) -> Message:
    return encode(
        f"set the flags of {name}",
        _classes()["link"],
        _RTM_NEWLINK,
        {"index": index, "flags": flags, "change": change},
    )


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
        _classes()["address"],
        _RTM_NEWADDR,
        {
            "family": _family(interface.ip),
            "prefixlen": interface.network.prefixlen,
            "index": end.index,
            "flags": _IFA_F_NODAD if interface.version == 6 else 0,
            "attrs": attributes,
        },
        flags=NLM_F_CREATE | NLM_F_EXCL,
    )


@lru_cache(maxsize=4096)
def _default_route(end: End, gateway: Address) -> Message:
    """Everything else goes to the gateway: the control address needs a route, not a host."""
    return encode(
        f"add the default route by {gateway} to {end.name}",
        _classes()["route"],
        _RTM_NEWROUTE,
        {
            "family": _family(gateway),
            "table": _RT_TABLE_MAIN,
            "proto": _RTPROT_STATIC,
            "type": _RTN_UNICAST,
            "attrs": [("RTA_GATEWAY", str(gateway)), ("RTA_OIF", end.index)],
        },
        flags=NLM_F_CREATE,
    )


@lru_cache(maxsize=4096)
def neighbour(end: End, address: Address, mac: str) -> Message:
    """From now on what an end sends to a neighbour's address goes to that MAC."""
    return encode(
        f"set the neighbour {address} of {end.name} to {mac}",
        _classes()["neighbour"],
        _RTM_NEWNEIGH,
        {
            "family": _family(address),
            "ifindex": end.index,
            "state": _NUD_PERMANENT,
            "attrs": [("NDA_DST", str(address)), ("NDA_LLADDR", mac)],
        },
        flags=NLM_F_CREATE | NLM_F_REPLACE,
    )


@lru_cache(maxsize=4096)
def _get_link(end: End) -> Message:
    return encode(
        f"look at {end.name}",
        _classes()["link"],
        _RTM_GETLINK,
        {"index": end.index, "attrs": [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]},
    )


@cache
def loopback_up() -> Message:
    """The loopback up, with its addresses."""
    return _flags("lo", LOOPBACK_INDEX, _IFF_UP, _IFF_UP)


def bring_up(end: End, gateways: Sequence[Address] = ()) -> list[Message]:
    """Up, with its addresses and default routes. `await_ready` is next: then they are really there."""
    return [
        _flags(end.name, end.index, _IFF_UP, _IFF_UP),
        *(add_address(end, interface) for interface in end.addresses),
        *(_default_route(end, gateway) for gateway in gateways),
    ]


@lru_cache(maxsize=4096)
def _get_route(address: Address) -> Message:
    return encode(
        f"look up the route to {address}",
        _classes()["route"],
        _RTM_GETROUTE,
        {
            "family": _family(address),
            "dst_len": address.max_prefixlen,
            "attrs": [("RTA_DST", str(address))],
        },
    )


def await_ready(sock: socket.socket, ends: Sequence[End]) -> None:
    """Waits until ends of one host can carry a connection: each is up, each own address is local.

    Until the kernel has noticed the carrier (operational state UP) it drops what is sent, and
    until a worker has inserted the local route of an IPv6 address, connects pick another one: the
    first SYN is lost, for a second. RTM_GETLINK makes the kernel look at once (Linux 6.8; before
    that a link is watched without delay when its two ends differ in index, so give them such).
    """
    deadline = time.monotonic() + READY_DEADLINE_S
    waiting = [question for end in ends for question in end.questions]
    while waiting:
        answers = execute(sock, [question.message for question in waiting])
        waiting = [
            question for question, answer in zip(waiting, answers, strict=True) if not question.is_so(answer)
        ]
        if waiting and time.monotonic() > deadline:
            raise MachineError(
                f"wait {READY_DEADLINE_S:.0f} s for {' and '.join(end.name for end in ends)} to be ready",
                "; ".join(question.missing for question in waiting),
            )


def _is_local(route: bytes) -> bool:
    # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type
    return route[7] == _RTN_LOCAL


def _is_up(link: bytes) -> bool:
    return _operational_state(link) == _OPERSTATE_UP


def _operational_state(link: bytes) -> int:
    """IFLA_OPERSTATE (RFC 2863) of an RTM_NEWLINK payload; 0 is unknown."""
    offset = 16  # behind struct ifinfomsg
    while offset + 4 <= len(link):
        length, kind = struct.unpack_from("=HH", link, offset)
        if kind == _IFLA_OPERSTATE:
            return link[offset + 4]
        offset += max((length + 3) & ~3, 4)
    return 0
