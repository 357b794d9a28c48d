"""Whether the parts of a topology fit together: what no field can tell by itself."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

from testbed.topology.counts import Draft, Location, Mistake
from testbed.topology.fields import Interface
from testbed.topology.segments import Near, segments
from testbed.topology.suggest import did_you_mean, listed

if TYPE_CHECKING:
    from testbed.topology.model import EndSpec, HostSpec, LinkSpec

_IPV6_MIN_MTU = 1280  # RFC 8200, 5; the kernel takes IPv6 off a device with less
LAB = "lab"


def mistakes_of(made: Draft) -> Iterator[Mistake]:
    """Everything that is wrong; of parts that could not be read nothing is said."""
    yield from _of_links(made)
    yield from _of_bridges(made)
    yield from _of_addresses(made)
    yield from _of_ways(made)
    yield from _of_names(made)


def _no_such_host(made: Draft, where: Location, name: str) -> Mistake:
    hint = did_you_mean(name, made.hosts)
    return Mistake(where, f"there is no host {name}{hint} (hosts: {listed(made.hosts)})")


def _of_links(made: Draft) -> Iterator[Mistake]:
    for link, at in zip(made.links, made.link_at, strict=True):
        if link is None:
            continue
        for number, end in enumerate(link.ends):
            yield from _of_end(made, (*at, "ends", number), end)
        one, other = link.ends
        if one.host == other.host:
            yield Mistake(at, f"both ends are in {one.host}: a link joins two hosts")
        elif not (one.bridge or other.bridge):
            yield from _apart(at, one, other)
        if link.mtu is not None and link.mtu < _IPV6_MIN_MTU and _has_ipv6(link):
            yield Mistake((*at, "mtu"), f"IPv6 needs {_IPV6_MIN_MTU} bytes: give IPv4 addresses alone")


def _has_ipv6(link: LinkSpec) -> bool:
    return any(interface.version == 6 for end in link.ends for interface in end.addresses)


def _of_end(made: Draft, at: Location, end: EndSpec) -> Iterator[Mistake]:
    if end.host not in made.hosts:
        yield _no_such_host(made, (*at, "host"), end.host)
        return
    host = made.hosts[end.host]
    if host is None or end.bridge is None:
        return
    if end.bridge not in host.bridges:
        has = (
            f"it has {listed(host.bridges)}" if host.bridges else f"give it one: bridges: {{{end.bridge}: }}"
        )
        hint = did_you_mean(end.bridge, host.bridges)
        yield Mistake((*at, "bridge"), f"{end.host} has no bridge {end.bridge}{hint} ({has})")
    if end.addresses:
        yield Mistake((*at, "addresses"), f"the port of a bridge has no addresses: {end.bridge} has them")


def _apart(at: Location, one: EndSpec, other: EndSpec) -> Iterator[Mistake]:
    for version in (4, 6):
        ours, theirs = (
            [interface for interface in end.addresses if interface.version == version] for end in (one, other)
        )
        if ours and theirs and not any(_meet(a, b) for a in ours for b in theirs):
            yield Mistake(
                (*at, "ends", 1, "addresses"),
                f"no IPv{version} address of {other.host} is in a network of {one.host}: "
                f"{listed(map(str, theirs))} and {listed(map(str, ours))}",
            )


def _meet(a: Interface, b: Interface) -> bool:
    return a.ip in b.network and b.ip in a.network


def _of_bridges(made: Draft) -> Iterator[Mistake]:
    for number in segments(made.hosts, made.links)[1]:
        yield Mistake(made.link_at[number], "it closes a loop of bridges, in which packets would go round")


def _all_addresses(made: Draft) -> Iterator[tuple[Location, str, Interface]]:
    for name, host in made.hosts.items():
        for bridge, addresses in (host.bridges if host is not None else {}).items():
            for number, interface in enumerate(addresses):
                yield (*made.host_at[name], "bridges", bridge, number), name, interface
    for link, at in zip(made.links, made.link_at, strict=True):
        for number, end in enumerate(link.ends if link is not None else ()):
            for which, interface in enumerate(end.addresses):
                yield (*at, "ends", number, "addresses", which), end.host, interface


def _of_addresses(made: Draft) -> Iterator[Mistake]:
    seen: dict[object, tuple[Location, str]] = {}
    networks: dict[tuple[str, object], Location] = {}
    for at, host, interface in _all_addresses(made):
        if interface.ip in seen:
            first_at, first = seen[interface.ip]
            if first_at == at:
                yield Mistake(
                    at, f"{interface.ip} would be of {first} and {host}: leave a count's addresses out"
                )
            else:
                yield Mistake(at, f"{interface.ip} is given twice: to {first} and {host}")
        seen.setdefault(interface.ip, (at, host))
        first_there = networks.setdefault((host, interface.network), at[:-1])
        if first_there != at[:-1]:
            yield Mistake(at, f"{host} is on {interface.network} twice: each link needs networks of its own")


def _of_ways(made: Draft) -> Iterator[Mistake]:
    """Gateways and routes."""
    near = Near(made.hosts, made.links)
    is_certain = _is_certain(made)
    for name, host in made.hosts.items():
        at = made.host_at[name]
        if host is not None and host.gateway is not None:
            yield from _of_neighbour(made, (*at, "gateway"), name, host.gateway, near if is_certain else None)
        for to, via in (host.routes if host is not None else {}).items():
            yield from _of_route(made, (*at, "routes", to), name, (to, via), near if is_certain else None)


def _is_certain(made: Draft) -> bool:
    """Whether it is known who is linked with whom: else who has a mistake in a link has others by it."""
    known = all(link is not None and all(end.host in made.hosts for end in link.ends) for link in made.links)
    return known and None not in made.hosts.values()


def _of_route(
    made: Draft, where: Location, name: str, route: tuple[str, str], near: Near | None
) -> Iterator[Mistake]:
    to, via = route
    if "/" not in to and to not in made.hosts:
        yield _no_such_host(made, where, to)
    if not _is_address(via):
        yield from _of_neighbour(made, where, name, via, near)
    elif near is not None and not _is_near(via, near.of(name)):
        yield Mistake(where, f"no neighbour of {name} has the address {via}{_of_near(near.of(name))}")
    if near is not None and "/" in to:
        yield from _of_versions(where, to, via, near.end(name, via))


def _is_address(text: str) -> bool:
    return ":" in text or "." in text


def _is_near(address: str, near: dict[str, EndSpec]) -> bool:
    ip = ipaddress.ip_address(address)
    return any(interface.ip == ip for end in near.values() for interface in end.addresses)


def _of_near(near: dict[str, EndSpec]) -> str:
    return f" (neighbours: {listed(near)})" if near else " (it has no link)"


def _of_neighbour(
    made: Draft, where: Location, name: str, other: str, near: Near | None
) -> Iterator[Mistake]:
    if other not in made.hosts:
        yield _no_such_host(made, where, other)
    elif other == name:
        yield Mistake(where, f"{name} cannot be its own neighbour")
    elif near is not None and near.end(name, other) is None:
        yield Mistake(where, f"no link leads from {name} to {other}{_of_near(near.of(name))}")


def _of_versions(where: Location, to: str, via: str, end: EndSpec | None) -> Iterator[Mistake]:
    wanted = ipaddress.ip_network(to).version
    if _is_address(via):
        has = {ipaddress.ip_address(via).version}
    else:
        has = {interface.version for interface in end.addresses} if end is not None else {wanted}
    if wanted not in has:
        yield Mistake(where, f"{to} is IPv{wanted}, and {via} has no such address")


def _of_names(made: Draft) -> Iterator[Mistake]:
    if LAB in made.hosts:
        yield Mistake(made.host_at[LAB], "lab stands for all hosts: call it something else")
    owners: dict[str, str] = {}
    for name, host in made.hosts.items():
        cgroup = _cgroup(name, host)
        if cgroup in owners:
            where: Location = (*made.host_at[name], *(("cgroup",) if cgroup != name else ()))
            yield Mistake(where, f"{owners[cgroup]} and {name} would have one cgroup, {cgroup}")
        owners.setdefault(cgroup, name)
    links: dict[str | None, Location] = {}
    for link, at in zip(made.links, made.link_at, strict=True):
        if link is not None and links.setdefault(link.name, at) != at:
            yield Mistake((*at, "name"), f"two links are called {link.name}")
    for entry, at in zip(made.programs, made.programs_at, strict=True):
        if entry is not None and entry.at != LAB and entry.at not in made.hosts:
            yield _no_such_host(made, (*at, "at"), entry.at)


def _cgroup(name: str, host: HostSpec | None) -> str:
    return host.cgroup if host is not None and host.cgroup is not None else name
