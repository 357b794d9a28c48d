"""Links of a lab, by the words that a person has for them; and what they do to packets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from testbed.errors import MachineError, UsageError
from testbed.keeper.kept import Kept
from testbed.keeper.words import unknown
from testbed.kernel.ends import End
from testbed.kernel.netem import impair_end, mend_end
from testbed.lab.host import Host
from testbed.topology.impair import impair_spec

CLEAR = "clear"


@dataclass(frozen=True)
class FoundLink:
    """A link: its number in the wiring, its name, and the ends that were meant."""

    number: int
    name: str
    ends: tuple[tuple[Host, End], ...]


def find_link(kept: Kept, words: str) -> FoundLink:
    """A link by its name (``client-server``), or one end of it (``client:eth0``). `UsageError` for others."""
    host, colon, interface = words.partition(":")
    return _of_end(kept, host, interface) if colon else _of_name(kept, words)


def all_links(kept: Kept) -> list[FoundLink]:
    """Every link, in the order of the wiring."""
    lab = kept.lab
    return [
        FoundLink(
            number,
            link.name or f"{wire.host}-{wire.peer_host}",
            ((lab[wire.host], wire.end), (lab[wire.peer_host], wire.peer)),
        )
        for number, (link, wire) in enumerate(zip(lab.topology.links, lab.wiring.wires, strict=True))
    ]


def _of_end(kept: Kept, name: str, interface: str) -> FoundLink:
    host = kept.host(name)
    names = []
    for link in all_links(kept):
        for each, end in link.ends:
            if each is host:
                names.append(end.name)
                if end.name == interface:
                    return FoundLink(link.number, link.name, ((each, end),))
    what = f"find the interface {interface} of {name}"
    raise unknown(what, "no link ends there", interface, names, "interfaces")


def _of_name(kept: Kept, words: str) -> FoundLink:
    links = all_links(kept)
    for link in links:
        hosts = [host.name for host, _ in link.ends]
        if words in {link.name, "-".join(hosts), "-".join(reversed(hosts))}:
            return link
    names = [link.name for link in links]
    raise unknown(
        f"find the link {words}", f"the lab {kept.name} has none of that name", words, names, "links"
    )


def impair(kept: Kept, words: str, how: Sequence[str]) -> dict[str, Any]:
    """Has netem do that to the packets that the ends send; ``clear`` alone takes it back.

    `MachineError` where the kernel has no netem.
    """
    link = find_link(kept, words)
    if not how:
        raise UsageError(f"impair {words}", "nothing says how", f"such as delay=10ms loss=1%, or {CLEAR}")
    if list(how) == [CLEAR]:
        for host, end in link.ends:
            with _naming("mend", host, end):
                mend_end(host.namespace.route, end)
        return {"link": link.name, "impair": ""}
    spec = impair_spec(how)
    for host, end in link.ends:
        with _naming("impair", host, end):
            impair_end(host.namespace.route, end, spec.netem())
    return {"link": link.name, "impair": str(spec), "from": [host.name for host, _ in link.ends]}


@contextmanager
def _naming(do: str, host: Host, end: End) -> Iterator[None]:
    """An error's interface with its host: each host has an eth0."""
    try:
        yield
    except MachineError as error:
        raise MachineError(f"{do} {host.name}:{end.name}", error.why, error.fix, error.details) from error
