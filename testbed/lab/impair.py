"""What links of a lab do to packets, by netem: from when it is said until it is taken back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from testbed.errors import UsageError
from testbed.kernel.links import End
from testbed.kernel.netem import Netem, impair_end, mend_end
from testbed.lab.host import Host

if TYPE_CHECKING:
    from testbed.lab.lab import Lab


def impair(lab: Lab, one: str, other: str, netem: Netem, *, both: bool = True) -> None:
    """From now on that happens to packets between two neighbours, in place of what happened before.

    ``both=False``: to those alone that ``one`` sends to ``other``. `UsageError` where no link joins
    them, `MachineError` where the kernel has no netem.
    """
    for host, end in _ends(lab, one, other, both=both):
        impair_end(host.namespace.route, end, netem)


def clear(lab: Lab, one: str, other: str, *, both: bool = True) -> None:
    """From now on packets between two neighbours are left alone; harmless where they were already."""
    for host, end in _ends(lab, one, other, both=both):
        mend_end(host.namespace.route, end)


def impair_links(lab: Lab) -> None:
    """What the topology says of its links. `MachineError` where it says something and there is no netem."""
    for link, wire in zip(lab.topology.links, lab.wiring.wires, strict=True):
        if link.impair is not None:
            netem = link.impair.netem()
            impair_end(lab[wire.host].namespace.route, wire.end, netem)
            impair_end(lab[wire.peer_host].namespace.route, wire.peer, netem)


def _ends(lab: Lab, one: str, other: str, *, both: bool) -> Iterator[tuple[Host, End]]:
    """Of the first link that joins the two."""
    for wire in lab.wiring.wires:
        if {wire.host, wire.peer_host} == {one, other}:
            ends = {wire.host: wire.end, wire.peer_host: wire.peer}
            yield lab[one], ends[one]
            if both:
                yield lab[other], ends[other]
            return
    raise UsageError(f"impair the link of {one} and {other}", "no link joins them")
