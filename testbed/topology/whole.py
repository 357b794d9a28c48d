"""From what was written to the whole topology, or to all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from testbed.topology.addresses import assign
from testbed.topology.consistency import mistakes_of
from testbed.topology.counts import Draft, Location, Mistake, changed, draft
from testbed.topology.fields import mistake
from testbed.topology.model import FORWARDING_ROLES, HostSpec, LinkSpec, ProgramsSpec
from testbed.topology.segments import Segment, segments

S = TypeVar("S", HostSpec, LinkSpec, ProgramsSpec)


def make_whole(
    hosts: Mapping[str, HostSpec], links: Sequence[LinkSpec], programs: Sequence[ProgramsSpec]
) -> tuple[dict[str, HostSpec], tuple[LinkSpec, ...], tuple[ProgramsSpec, ...]]:
    """Counts carried out, addresses and names assigned. `ValidationError` has every mistake."""
    made = draft(hosts, links, programs)
    _complete(made)
    made.mistakes += mistakes_of(made)
    if made.mistakes:
        raise _error([_line(each) for each in _once(made.mistakes)])
    return (
        {name: host for name, host in made.hosts.items() if host is not None},
        tuple(link for link in made.links if link is not None),
        tuple(entry for entry in made.programs if entry is not None),
    )


def mistakes_beside(error: ValidationError, data: object) -> ValidationError:
    """The mistakes of single fields, and with them all that can be told of how the rest fits together."""
    lines = [_again(line) for line in error.errors(include_url=False)]
    if isinstance(data, Mapping):
        made = draft(
            {
                name: _piece(HostSpec, {} if value is None else value)
                for name, value in _items(data.get("hosts"))
                if isinstance(name, str)
            },
            [_piece(LinkSpec, value) for value in _each(data.get("links"))],
            [_piece(ProgramsSpec, value) for value in _each(data.get("programs"))],
        )
        _complete(made)
        made.mistakes += mistakes_of(made)
        lines += [_line(each) for each in _once(made.mistakes)]
    return _error(lines)


def _complete(made: Draft) -> None:
    """What was left out: whether a host forwards, the names of links, addresses."""
    for name, host in made.hosts.items():
        if host is not None and "forwarding" not in host.model_fields_set and host.role in FORWARDING_ROLES:
            made.hosts[name] = changed(host, forwarding=True)
    _name_links(made)
    if None not in made.links:  # else it is not known who has no addresses
        _give_addresses(made)


def _name_links(made: Draft) -> None:
    taken = {link.name for link in made.links if link is not None and link.name is not None}
    for number, link in enumerate(made.links):
        if link is not None and link.name is None:
            base = name = "-".join(end.host for end in link.ends)
            again = 1
            while name in taken:
                again += 1
                name = f"{base}-{again}"
            taken.add(name)
            made.links[number] = changed(link, name=name)


def _give_addresses(made: Draft) -> None:
    found, failed = assign(segments(made.hosts, made.links)[0])
    for member in found:
        host = made.hosts.get(member.host)
        link = made.links[member.link] if member.link >= 0 else None
        if link is not None:
            ends = list(link.ends)
            ends[member.end] = changed(ends[member.end], addresses=member.addresses)
            made.links[member.link] = changed(link, ends=tuple(ends))
        elif host is not None and member.bridge is not None:
            bridges = {**host.bridges, member.bridge: member.addresses}
            made.hosts[member.host] = changed(host, bridges=bridges)
    made.mistakes += [Mistake(_place(made, segment), why) for segment, why in failed]


def _place(made: Draft, segment: Segment) -> Location:
    if segment.links:
        return made.link_at[segment.links[0]]
    host, bridge = segment.bridges[0]
    return (*made.host_at[host], "bridges", bridge)


def _again(line: ErrorDetails) -> InitErrorDetails:
    """A mistake that was told once, to be told again."""
    context = {**line.get("ctx", {}), "words": line["msg"]}
    return InitErrorDetails(
        type=PydanticCustomError(line["type"], "{words}", context),
        loc=line["loc"],
        input=line["input"],
    )


def _line(each: Mistake) -> InitErrorDetails:
    return InitErrorDetails(type=mistake(each.words), loc=each.where, input=None)


def _error(lines: list[InitErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data("Topology", lines)


def _once(mistakes: Iterable[Mistake]) -> Iterable[Mistake]:
    """One mistake for each place: the copies of a host that was written once all have it."""
    return {each.where: each for each in reversed(list(mistakes))}.values()


def _piece(kind: type[S], value: object) -> S | None:
    try:
        return kind.model_validate(value)
    except ValidationError:
        return None


def _items(value: object) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, Mapping) else ()


def _each(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
