"""Ends of links as a host sees them, and when they are ready to carry a connection."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

from testbed.deadlines import scaled
from testbed.errors import MachineError
from testbed.kernel.netlink import Message, encode, execute

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

READY_DEADLINE_S = scaled(5.0)
RTM_NEWLINK, RTM_GETLINK = 16, 18
RTM_NEWADDR = 20
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH = 28

_IFLA_OPERSTATE, _OPERSTATE_UP = 16, 6
_RTEXT_FILTER_SKIP_STATS = 8  # Linux 4.4; summing them up takes longer than all the rest
_RTN_LOCAL = 2
# An answer about a link is 1 to 2 KiB, and all that are asked for at once must fit the socket's buffer.
_AT_ONCE = 48


@dataclass(frozen=True, eq=False)  # told apart by itself: addresses take long to compare
class End:
    """One end of a link as one host sees it; or the device of a bridge, which is like one."""

    name: str
    index: int
    mac: str
    addresses: tuple[Interface, ...]
    mtu: int | None = None
    port_of: int | None = None
    """The index of the bridge that it is a port of."""
    forwards: bool = False
    """Whether its host does."""

    @cached_property
    def ips(self) -> tuple[Address, ...]:
        """Its addresses without their networks."""
        return tuple(interface.ip for interface in self.addresses)

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """What `await_ready` asks: its state, and the route to each own address."""
        up = Question(get_link(self), _is_up, f"the state of {self.name} is not UP: is the other end?")
        return up, *(Question(_get_route(ip), _is_local, f"{ip} is not local") for ip in self.ips)


@dataclass(frozen=True)
class Question:
    """Whether something has come about: a request, what to make of its answer, words for when not."""

    message: Message
    is_so: Callable[[bytes], bool]
    missing: str


@cache
def classes() -> dict[str, Callable[[], Any]]:
    # Importing pyroute2 takes longer than all the rest of a small command.
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    return {"link": ifinfmsg, "address": ifaddrmsg, "route": rtmsg, "neighbour": ndmsg}


def family_of(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


@lru_cache(maxsize=4096)
def get_link(end: End) -> Message:
    return encode(
        f"look at {end.name}",
        classes()["link"],
        RTM_GETLINK,
        {"index": end.index, "attrs": [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]},
    )


@lru_cache(maxsize=4096)
def _get_route(address: Address) -> Message:
    return encode(
        f"look up the route to {address}",
        classes()["route"],
        RTM_GETROUTE,
        {
            "family": family_of(address),
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
        answers = _ask(sock, waiting)
        waiting = [
            question for question, answer in zip(waiting, answers, strict=True) if not question.is_so(answer)
        ]
        if waiting and time.monotonic() > deadline:
            raise MachineError(
                f"wait {READY_DEADLINE_S:.0f} s for {' and '.join(end.name for end in ends)} to be ready",
                "; ".join(question.missing for question in waiting),
            )
        if waiting:
            os.sched_yield()  # the worker is one of this CPU: where that is busy it would wait for our slice


def _ask(sock: socket.socket, questions: Sequence[Question]) -> list[bytes]:
    answers: list[bytes] = []
    for start in range(0, len(questions), _AT_ONCE):
        answers += execute(sock, [question.message for question in questions[start : start + _AT_ONCE]])
    return answers


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
