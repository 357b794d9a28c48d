"""Addresses for whoever was given none: the same each time for the same topology, and never one twice.

A segment without any address gets an IPv4 /24 (a larger one where its hosts need it) and an IPv6 /64
of its own, from private ranges (RFC 1918, RFC 4193), clear of every network that the topology names. In
a segment where others have addresses, the next free ones of their networks are taken.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

from testbed.topology.fields import Interface
from testbed.topology.segments import Member, Segment

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_RANGES = {
    4: [
        ipaddress.ip_network(text)
        for text in ("10.64.0.0/10", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    ],
    6: [ipaddress.ip_network(text) for text in ("fd64::/32", "fd00::/8")],
}
_SMALLEST = {4: 24, 6: 64}
_BITS = {4: 32, 6: 128}


class NoAddressesLeft(Exception):
    """A network, or all that is private, is used up."""


class _Pool:
    """Networks that nobody has."""

    def __init__(self, taken: Iterable[Network]) -> None:
        self._taken: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for network in taken:
            self._taken[network.version].append(
                (int(network.network_address), int(network.broadcast_address) + 1)
            )
        for version, ranges in self._taken.items():
            self._taken[version] = _merged(ranges)
        self._next = {4: 0, 6: 0}

    def fresh(self, version: int, hosts: int) -> Network:
        """A network for so many hosts, clear of all others."""
        prefix = min(_SMALLEST[version], _BITS[version] - (hosts + 2).bit_length())
        size = 1 << (_BITS[version] - prefix)
        for private in _RANGES[version]:
            first, last = int(private.network_address), int(private.broadcast_address) + 1
            start = max(first, self._next[version])
            while (start := -(-start // size) * size) + size <= last:
                end = self._end_of_overlap(version, start, start + size)
                if end is None:
                    self._next[version] = start + size
                    return ipaddress.ip_network((start, prefix))
                start = end
        raise NoAddressesLeft(f"no private IPv{version} network is left: give its addresses")

    def _end_of_overlap(self, version: int, start: int, end: int) -> int | None:
        taken = self._taken[version]
        at = bisect_right(taken, (start, 1 << 129)) - 1
        if at >= 0 and taken[at][1] > start:
            return taken[at][1]
        if at + 1 < len(taken) and taken[at + 1][0] < end:
            return taken[at + 1][1]
        return None


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


class _Numbers:
    """The hosts of a network, in order, without those that are taken."""

    def __init__(self, network: Network, taken: Sequence[Interface]) -> None:
        self._network = network
        self._taken = {int(interface.ip) for interface in taken if interface.version == network.version}
        self._next = int(network.network_address) + (network.prefixlen < network.max_prefixlen - 1)
        self._end = int(network.broadcast_address) + (
            network.version == 6 or network.prefixlen >= network.max_prefixlen - 1
        )

    def next(self) -> Interface:
        while self._next in self._taken:
            self._next += 1
        if self._next >= self._end:
            raise NoAddressesLeft(f"no address of {self._network} is free")
        self._next += 1
        return ipaddress.ip_interface((self._next - 1, self._network.prefixlen))


def assign(segments: Sequence[Segment]) -> tuple[list[Member], list[tuple[Segment, str]]]:
    """The members that had no addresses, with some; and the segments where there are none left, and why."""
    given = [
        interface for segment in segments for member in segment.members for interface in member.addresses
    ]
    pool = _Pool(interface.network for interface in given)
    found: list[Member] = []
    failed: list[tuple[Segment, str]] = []
    for segment in segments:
        lacking = [member for member in segment.members if not member.is_given]
        if not lacking:
            continue
        taken = [interface for member in segment.members for interface in member.addresses]
        try:
            networks: Sequence[Network] = list(dict.fromkeys(interface.network for interface in taken)) or [
                pool.fresh(version, len(segment.members)) for version in (4, 6)
            ]
            numbers = [_Numbers(network, taken) for network in networks]
            found += [replace(member, addresses=tuple(each.next() for each in numbers)) for member in lacking]
        except NoAddressesLeft as error:
            failed.append((segment, str(error)))
    return found, failed
