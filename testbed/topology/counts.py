"""Hosts with a count, made as many; and each link and entry of programs that names one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from testbed.topology.model import HostSpec, LinkSpec, ProgramsSpec

S = TypeVar("S", bound=BaseModel)

Location = tuple[str | int, ...]
"""Where in a document: ``("links", 0, "ends", 1, "host")``."""
_NAME_LENGTH = 31
MOST_HOSTS = 2000


@dataclass(frozen=True)
class Mistake:
    """What is wrong, where, in words."""

    where: Location
    words: str


@dataclass
class Draft:
    """All hosts and links one by one, each with the place in the document that it comes from.

    What could not be read is None: it is there, and nothing else is known of it.
    """

    hosts: dict[str, HostSpec | None] = field(default_factory=dict)
    links: list[LinkSpec | None] = field(default_factory=list)
    programs: list[ProgramsSpec | None] = field(default_factory=list)
    host_at: dict[str, Location] = field(default_factory=dict)
    link_at: list[Location] = field(default_factory=list)
    programs_at: list[Location] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)


def changed(spec: S, without: str = "", **values: Any) -> S:
    """A copy with other values, and one that was never given."""
    copy = spec.model_copy(update=values)
    if without in copy.model_fields_set:
        copy.__dict__[without] = type(spec).model_fields[without].default
        copy.__pydantic_fields_set__.discard(without)
    return copy


def draft(
    hosts: Mapping[str, HostSpec | None],
    links: Sequence[LinkSpec | None],
    programs: Sequence[ProgramsSpec | None],
) -> Draft:
    """One by one, with every count carried out."""
    return _Counting({name: host.count for name, host in hosts.items() if host and host.count}).carry_out(
        hosts, links, programs
    )


class _Counting:
    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = counts
        self.made = Draft()

    def carry_out(
        self,
        hosts: Mapping[str, HostSpec | None],
        links: Sequence[LinkSpec | None],
        programs: Sequence[ProgramsSpec | None],
    ) -> Draft:
        total = len(hosts) + sum(self.counts.values())
        if total > MOST_HOSTS:
            self._wrong(("hosts",), f"{total} hosts are more than a lab can have: {MOST_HOSTS}")
            return self.made
        for name, host in hosts.items():
            self._add_host(name, host)
        for number, link in enumerate(links):
            self._add_link(("links", number), link)
        for number, entry in enumerate(programs):
            self._add_programs(("programs", number), entry)
        return self.made

    def _wrong(self, where: Location, words: str) -> None:
        self.made.mistakes.append(Mistake(where, words))

    def _name(self, where: Location, name: str, copy: int | None, count: int | None) -> str:
        """What a name stands for within the n-th copy of what has it, of ``count`` copies."""
        there = self.counts.get(name)
        if there is None:
            return name
        if copy is None:
            self._wrong(where, f"{name} is {there} hosts: name one, {name}-1 … {name}-{there}")
        elif there != count:
            self._wrong(where, f"{name} is {there} hosts, and here are {count}: both must be as many")
        return f"{name}-{copy or 1}"

    def _add_host(self, name: str, host: HostSpec | None) -> None:
        where: Location = ("hosts", name)
        count = self.counts.get(name)
        for copy, made in _copies(name, count):
            if made in self.made.hosts:
                self._wrong(where, f"there are two hosts {made}")
            if len(made) > _NAME_LENGTH:
                self._wrong(where, f"{made} is longer than {_NAME_LENGTH} characters")
            self.made.host_at[made] = where
            self.made.hosts[made] = None if host is None else self._host(where, host, copy, count)

    def _host(self, where: Location, host: HostSpec, copy: int | None, count: int | None) -> HostSpec:
        values: dict[str, Any] = {}
        if host.gateway is not None:
            values["gateway"] = self._name((*where, "gateway"), host.gateway, copy, count)
        if host.routes:
            at = (*where, "routes")
            values["routes"] = {
                self._name((*at, to), to, copy, count): self._name((*at, to), via, copy, count)
                for to, via in host.routes.items()
            }
        if host.cgroup is not None and copy is not None:
            values["cgroup"] = f"{host.cgroup}-{copy}"
        return changed(host, "count", **values)

    def _add_link(self, where: Location, link: LinkSpec | None) -> None:
        if link is None:
            self._keep_link(where, None)
            return
        counts = [self.counts.get(end.host) for end in link.ends]
        given = {count for count in counts if count is not None}
        if len(given) > 1:
            one, other = (end.host for end in link.ends)
            self._wrong(
                where,
                f"{one} is {counts[0]} hosts and {other} is {counts[1]}: to be linked in pairs,"
                " both must be as many",
            )
            self._keep_link(where, None)
            return
        for copy, _ in _copies("", next(iter(given), None)):
            ends = tuple(
                end if count is None else changed(end, host=f"{end.host}-{copy}")
                for end, count in zip(link.ends, counts, strict=True)
            )
            values: dict[str, Any] = {"ends": ends}
            if link.name is not None and copy is not None:
                values["name"] = f"{link.name}-{copy}"
            self._keep_link(where, changed(link, **values))

    def _keep_link(self, where: Location, link: LinkSpec | None) -> None:
        self.made.links.append(link)
        self.made.link_at.append(where)

    def _add_programs(self, where: Location, entry: ProgramsSpec | None) -> None:
        count = self.counts.get(entry.at) if entry is not None else None
        for copy, at in _copies(entry.at if entry is not None else "", count):
            one = entry if entry is None or copy is None else changed(entry, at=at)
            self.made.programs.append(one)
            self.made.programs_at.append(where)


def _copies(name: str, count: int | None) -> Iterator[tuple[int | None, str]]:
    """(number, name) of each copy; without a count the one and only, which has no number."""
    if count is None:
        yield None, name
    else:
        yield from ((copy, f"{name}-{copy}") for copy in range(1, count + 1))
