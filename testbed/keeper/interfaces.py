"""The links and bridges of a lab as they are now: what `inspect` tells of them."""

from __future__ import annotations

import struct
from typing import Any

from testbed.keeper.kept import Kept
from testbed.keeper.links import all_links
from testbed.kernel.ends import End, get_link
from testbed.kernel.netlink import execute
from testbed.lab.host import Host

About = dict[str, Any]

_IFLA_MTU = 4
_IFINFOMSG = 16  # bytes ahead of the attributes


def links(kept: Kept) -> list[About]:
    """By name: both ends, each with host, interface, MTU in bytes, and the bridge that it is a port of."""
    return [
        {"name": link.name, "ends": [_end(host, end) for host, end in link.ends]} for link in all_links(kept)
    ]


def bridges(kept: Kept) -> list[About]:
    """Each with its host, MTU in bytes, and the interfaces that are its ports."""
    return [
        {
            "host": host.name,
            "name": device.name,
            "mtu": _mtu(host, device),
            "ports": [end.name for end in host.ends if end.port_of == device.index],
        }
        for host in kept.lab.hosts.values()
        for device in host.ends
        if device.name in kept.lab.topology.hosts[host.name].bridges
    ]


def _end(host: Host, end: End) -> About:
    bridge = next((each.name for each in host.ends if each.index == end.port_of), None)
    return {"host": host.name, "interface": end.name, "mtu": _mtu(host, end), "bridge": bridge}


def _mtu(host: Host, end: End) -> int | None:
    """The kernel's word: somebody may have changed it with `ip link`."""
    (link,) = execute(host.namespace.route, [get_link(end)])
    offset = _IFINFOMSG
    while offset + 8 <= len(link):
        length, kind = struct.unpack_from("=HH", link, offset)
        if kind == _IFLA_MTU:
            return int(struct.unpack_from("=I", link, offset + 4)[0])
        offset += max((length + 3) & ~3, 4)
    return None
