"""How soon TCP sends again what is not acknowledged: 200 ms at least, unless a route says otherwise."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from testbed.kernel.links import End
from testbed.kernel.netlink import NLM_F_CREATE, NLM_F_REPLACE, Message, encode, execute

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_RTM_NEWROUTE = 24
_RT_TABLE_MAIN, _RTPROT_KERNEL, _RTN_UNICAST = 254, 2, 1
_SCOPE_LINK, _SCOPE_UNIVERSE = 253, 0
_METRIC_V6 = 256  # IP6_RT_PRIO_ADDRCONF: the kernel's own route to a network has it
_RTAX_RTO_MIN = 13


def set_min_rto(sock: socket.socket, end: End, milliseconds: int) -> None:
    """From now on that is the least for data and FINs to neighbours at an end; a jiffy is the least of all.

    ``sock`` is a NETLINK_ROUTE socket of its namespace. SYNs are another matter: see
    `testbed.lab.impatience`. `MachineError` when the kernel refuses.
    """
    execute(sock, [_route(end, interface, milliseconds) for interface in end.addresses])


@cache
def _class() -> Callable[[], Any]:
    # Importing pyroute2 takes longer than all the rest of a small command.
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    build: Callable[[], Any] = rtmsg
    return build


@lru_cache(maxsize=256)
def _route(end: End, interface: Interface, milliseconds: int) -> Message:
    """The route to an own network, in place of the kernel's."""
    is_v4 = interface.version == 4
    metrics = [("RTAX_RTO_MIN", milliseconds), ("RTAX_LOCK", 1 << _RTAX_RTO_MIN)]
    own = ("RTA_PREFSRC", str(interface.ip)) if is_v4 else ("RTA_PRIORITY", _METRIC_V6)
    return encode(
        f"set the least RTO from {end.name} to {interface.network}",
        _class(),
        _RTM_NEWROUTE,
        {
            "family": socket.AF_INET if is_v4 else socket.AF_INET6,
            "dst_len": interface.network.prefixlen,
            "table": _RT_TABLE_MAIN,
            "proto": _RTPROT_KERNEL,
            "scope": _SCOPE_LINK if is_v4 else _SCOPE_UNIVERSE,
            "type": _RTN_UNICAST,
            "attrs": [
                ("RTA_DST", str(interface.network.network_address)),
                ("RTA_OIF", end.index),
                own,
                ("RTA_METRICS", {"attrs": metrics}),
            ],
        },
        flags=NLM_F_CREATE | NLM_F_REPLACE,
    )
