"""What a pressure run found, and what of it is wrong."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from testbed.lab.family import Family
from testbed.pressure.driver import Slice


@dataclass(frozen=True)
class Request:
    """What was asked for.

    ``stalled`` are the rings that are not read during the run, by role; ``full`` the maps to fill
    with strangers, ``max_entries`` those of which a size was chosen, by name. ``verdicts``: one is
    written for each authorization request. ``waypoint``: every client goes by a waypoint, so that
    its socket is put into the sockhash.
    """

    connections: int
    concurrency: int = 64
    family: Family = Family.V4
    stalled: frozenset[str] = frozenset()
    full: tuple[str, ...] = ()
    max_entries: Mapping[str, int] = field(default_factory=dict)
    verdicts: bool = False
    waypoint: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether something was asked for that makes a program complain."""
        return bool(self.stalled or self.full or self.max_entries)


@dataclass(frozen=True)
class RingResult:
    """One ring. ``expected`` is None where nobody can know; ``produced`` is the producer's own count."""

    role: str
    name: str
    expected: int | None
    produced: int
    received: int
    capacity: int
    stalled: bool
    loss_was_asked_for: bool

    @property
    def lost(self) -> int | None:
        return None if self.expected is None else self.expected - self.received

    def problems(self) -> Iterator[str]:
        name, lost = f"{self.role} ({self.name})", self.lost
        if self.received != self.produced:
            yield f"{name}: {self.received} records were read, of {self.produced} that the program wrote"
        if lost is None:
            return
        if lost < 0:
            yield f"{name}: {-lost} records more than expected"
        if lost > 0 and not self.loss_was_asked_for:
            yield f"{name}: {lost} of {self.expected} records lost; the ring holds {self.capacity}"
        if self.stalled and self.received != min(self.expected or 0, self.capacity):
            yield f"{name}: stalled, it should hold {self.capacity} records, and it held {self.received}"


@dataclass(frozen=True)
class MapResult:
    """One map. Entries are None for a type that has no keys of its own; memory in bytes."""

    name: str
    kind: str
    max_entries: int
    before: int | None
    after: int | None
    memory_before: int
    memory_after: int
    strangers: int = 0
    strangers_left: int = 0


@dataclass(frozen=True)
class Verdicts:
    """Of the verdicts ``left``, ``late`` were written when their connection had closed already.

    Of ``untold`` no report says when it closed. The program has to delete all others.
    """

    written: int
    refused: Mapping[str, int]
    left: int
    late: int
    untold: int


@dataclass(frozen=True)
class Result:
    """All of it. ``whole`` are connections with all of their records, each once; None without any.

    ``unfinished`` have some of them. ``first_records`` are the observe ring's, where it was stalled,
    and ``first_ports`` those of the first clients, as the server accepted them.
    """

    request: Request
    origin: str
    seconds: float
    with_program: tuple[Slice, ...]
    without: tuple[Slice, ...]
    client_managed: bool
    server_managed: bool
    rings: tuple[RingResult, ...]
    maps: tuple[MapResult, ...]
    whole: int | None
    unfinished: int
    repeated: int
    malformed: int
    first_records: tuple[bytes, ...]
    first_ports: tuple[int, ...]
    verdicts: Verdicts
    managed_left: int
    sockhash_left: int
    complaints: Mapping[str, int]
    kernel: Mapping[str, Mapping[str, int]]
    resident_before: int
    resident_after: int
    interrupted: bool = False

    @property
    def opened(self) -> int:
        """Connections through the program, as the client counts them."""
        return sum(each.opened for each in self.with_program)

    @property
    def accepted(self) -> int:
        return sum(each.accepted for each in self.with_program)

    def ring(self, role: str) -> RingResult:
        """The ring of a role."""
        return next(each for each in self.rings if each.role == role)

    def problems(self) -> list[str]:
        """Everything that is not as it should be, a line each; empty where all is well."""
        found = [*self._connection_problems(), *self._left_problems()]
        for ring in self.rings:
            found += ring.problems()
        if self.unfinished and not any(ring.lost for ring in self.rings if ring.role == "observe"):
            found.append(f"{self.unfinished} connections have not all of their records, and none is lost")
        if self.repeated:
            found.append(f"{self.repeated} observe records came twice")
        if self.malformed:
            found.append(f"{self.malformed} records are malformed")
        if self.complaints and not self.request.is_limited:
            found.append(f"the program logged {sum(self.complaints.values())} errors")
        return found

    def _connection_problems(self) -> Iterator[str]:
        for where, slices in (("", self.with_program), (" without the program", self.without)):
            for side, of_side in (("connect()", "connect_errors"), ("the server", "server_errors")):
                errors: dict[str, int] = {}
                for each in slices:
                    for name, count in getattr(each, of_side).items():
                        errors[name] = errors.get(name, 0) + count
                for name, count in errors.items():
                    yield f"{side} failed {count} times{where}: {name}"
        if self.opened != self.accepted:
            yield f"{self.opened} connections were opened, {self.accepted} accepted"
        for host, name, ours in (
            ("client", "TcpActiveOpens", self.opened),
            ("server", "TcpPassiveOpens", self.accepted),
        ):
            theirs = self.kernel[host].get(name, 0)
            if theirs != ours and not any(each.connect_errors for each in self.with_program):
                yield f"the kernel counts {theirs} ({name} of the {host}), the workers {ours}"
        if not (self.client_managed and self.server_managed) and not self.request.is_limited:
            who = " and ".join(
                name
                for name, on in (("client", self.client_managed), ("server", self.server_managed))
                if not on
            )
            yield f"the {who} could not be enrolled"

    def _left_problems(self) -> Iterator[str]:
        if unexplained := self.verdicts.left - self.verdicts.late - self.verdicts.untold:
            yield f"{unexplained} verdicts are left of connections that closed after they were written"
        if self.sockhash_left:
            yield f"{self.sockhash_left} sockets are left in the sockhash"
        if self.managed_left:
            yield f"{self.managed_left} entries are left in the managed map"
        for each in self.maps:
            if each.strangers_left != each.strangers:
                yield f"{each.name}: of {each.strangers} foreign entries {each.strangers_left} are left"


def median_rate(slices: tuple[Slice, ...]) -> float:
    """Connections a second, the median of the slices."""
    return statistics.median(each.rate for each in slices) if slices else 0.0
