"""What the contract prescribes against what the program left: each difference is a violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from testbed.kmesh.abi import Direction
from testbed.kmesh.oracle.fields import compare
from testbed.kmesh.oracle.model import ExpectedRecord, Model, Socket
from testbed.kmesh.records import AuthRequest, ObserveRecord, Storage
from testbed.kmesh.views import ManagedSet, SockhashKeys, VerdictMap
from testbed.lab.family import ConnTuple
from testbed.observe.callbacks import Callback, CallbackFlag

K = TypeVar("K", bound=Hashable)
_Side = tuple[ConnTuple, Direction]


@dataclass(frozen=True)
class Violation:
    """One thing that the contract forbids: the invariant, of which connection, and the words.

    ``kinds`` are what it has in common with others, in a few words each: by these they are counted.
    """

    invariant: str
    connection: ConnTuple | None
    words: str
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        of = f" of {self.connection}" if self.connection is not None else ""
        return f"{self.invariant}{of}: {self.words}"


def _name(record: ExpectedRecord | ObserveRecord) -> str:
    return f"{record.direction.name}/{record.state.name}"


def records(expected: Sequence[ExpectedRecord], seen: Sequence[ObserveRecord]) -> Iterator[Violation]:
    """Exactly those expected, once each, each side's in order, every field as it must be."""
    wanted: dict[_Side, list[ExpectedRecord]] = {}
    for each in expected:
        wanted.setdefault((each.tuple, each.direction), []).append(each)
    strange: list[ObserveRecord] = []
    come: dict[_Side, list[ObserveRecord]] = {}
    for record in seen:
        side = (record.tuple, record.direction)
        (come.setdefault(side, []) if side in wanted else strange).append(record)
    missing: list[ExpectedRecord] = []
    for side, of_side in wanted.items():
        matched, without, extra = _match(of_side, come.get(side, []))
        missing += without
        strange += extra
        for one, other in matched:
            yield from _differences(one, other)
    yield from _unmatched(missing, strange)


def _match(
    expected: list[ExpectedRecord], seen: list[ObserveRecord]
) -> tuple[list[tuple[ExpectedRecord, ObserveRecord]], list[ExpectedRecord], list[ObserveRecord]]:
    """Pairs of one side's records in order; what is missing, and what is too much."""
    matched, missing, extra = [], [], []
    left = list(expected)
    for record in seen:
        places = [place for place, each in enumerate(left) if each.state is record.state]
        if not places:
            extra.append(record)
            continue
        missing += [each for each in left[: places[0]] if each.certain]
        matched.append((left[places[0]], record))
        del left[: places[0] + 1]
    return matched, missing + [each for each in left if each.certain], extra


def _differences(expected: ExpectedRecord, seen: ObserveRecord) -> Iterator[Violation]:
    fields = compare(expected, seen)
    if not all(each.kept for each in fields):
        wrong = ", ".join(each.name for each in fields if not each.kept)
        lines = "\n".join(f"    {each}" for each in fields)
        kinds = tuple(f"{expected.direction.name} record: {each.name}" for each in fields if not each.kept)
        words = f"{_name(expected)} has a wrong {wrong}\n{lines}"
        yield Violation("record", expected.tuple, words, kinds)


def _unmatched(missing: list[ExpectedRecord], strange: list[ObserveRecord]) -> Iterator[Violation]:
    """A record under a wrong tuple is one expected and one strange: told together where one fits."""
    for each in missing:
        fitting = [one for one in strange if one.event == (each.direction, each.state)]
        if fitting:
            strange.remove(fitting[0])
            yield from _differences(each, fitting[0])
        else:
            words = f"{_name(each)} is missing; it was due in: {each.callback}"
            yield Violation("record", each.tuple, words, (f"{_name(each)} record: missing",))
    for record in strange:
        words = f"nothing called for this one, or not again: {record}"
        yield Violation("record", record.tuple, words, (f"{_name(record)} record: not called for",))


def requests(
    expected: Sequence[tuple[ConnTuple, Callback]], seen: Sequence[AuthRequest]
) -> Iterator[Violation]:
    """One for each connection accepted on a managed address, its unused bytes zero."""
    wanted, come = Counter(one for one, _ in expected), Counter(request.tuple for request in seen)
    for connection in (wanted - come).elements():
        yield Violation("request", connection, "user space was not asked", ("request: missing",))
    for connection in (come - wanted).elements():
        words = "nothing called for it, or not again"
        yield Violation("request", connection, words, ("request: not called for",))
    for request in seen:
        if request.stale:
            words = f"unused bytes are not zero: {request.stale}"
            yield Violation("request", request.tuple, words, ("request: unused bytes",))


def flags(watched: Iterable[tuple[Callback, bool]]) -> Iterator[Violation]:
    """STATE_CB_FLAG on every socket that the program reports, and on no other; no flag besides."""
    for callback, expected in watched:
        wanted = CallbackFlag.STATE if expected else CallbackFlag(0)
        if callback.flags != wanted:
            told = [flags.name or "none" for flags in (wanted, callback.flags)]
            words = f"expected {told[0]}, seen {told[1]} after: {callback}"
            yield Violation("flags", None, words, (f"flags: {told[1]}, not {told[0]}",))


def _mappings(what: str, expected: Mapping[K, object], seen: Mapping[K, object]) -> Iterator[Violation]:
    for key in [*expected, *(key for key in seen if key not in expected)]:
        if expected.get(key) != seen.get(key):
            told = [str(found[key]) if key in found else "nothing" for found in (expected, seen)]
            kind = f"{what}: " + (
                "missing" if key not in seen else "left" if key not in expected else "value"
            )
            yield Violation(what, None, f"{key}: expected {told[0]}, seen {told[1]}", (kind,))


def managed(model: Model, seen: ManagedSet) -> Iterator[Violation]:
    """Every address of the managed map, with its value."""
    yield from _mappings("managed map", model.managed, seen.values())


def verdicts(model: Model, seen: VerdictMap) -> Iterator[Violation]:
    """Those of connections that are still there, and of nobody else."""
    there = {key: verdict for key, verdict in seen.items() if key not in model.unsure_verdicts}
    yield from _mappings("verdicts", model.verdicts, there)


def storages(
    model: Model, there: Iterable[int], seen: Mapping[int, Storage], fields: frozenset[str]
) -> Iterator[Violation]:
    """Managed clients and accepted sockets that are reported have a storage, others none.

    ``there`` are the cookies of the sockets that exist, ``fields`` what the era's storage has.
    """
    for cookie in there:
        sock, storage = model.sockets.get(cookie, Socket()), seen.get(cookie)
        if storage is None:
            if sock.must_store:
                yield _storage(cookie, "missing", "the socket has none")
            continue
        if not (sock.stored or sock.may_store):
            yield _storage(cookie, "left", f"nothing called for it: {storage}")
        if storage.via_waypoint != sock.via_waypoint:
            yield _storage(cookie, "value", f"expected via_waypoint={sock.via_waypoint}, seen {storage}")
        if sock.must_store and "asked_for" in fields and storage.asked_for != sock.asked_for:
            yield _storage(cookie, "value", f"expected asked_for={sock.asked_for}, seen {storage}")


def _storage(cookie: int, kind: str, words: str) -> Violation:
    return Violation(
        "storage", None, f"of the socket with the cookie {cookie}: {words}", (f"storage: {kind}",)
    )


def sockhash(expected: set[ConnTuple], unsure: set[ConnTuple], seen: SockhashKeys) -> Iterator[Violation]:
    """The sockets via a waypoint that are still open, by their own tuple; ``unsure`` ones may be there."""
    there = set(seen)
    for connection in expected - there:
        yield Violation("sockhash", connection, "the socket is not in it", ("sockhash: missing",))
    for connection in there - expected - unsure:
        words = "there is no such socket via a waypoint"
        yield Violation("sockhash", connection, words, ("sockhash: left",))
