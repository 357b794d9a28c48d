"""What the contract prescribes against what the program left: each difference is a violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from testbed.kmesh.abi import Direction
from testbed.kmesh.oracle.fields import compare
from testbed.kmesh.oracle.model import ExpectedRecord, Model, Socket, local_to_remote
from testbed.kmesh.records import AuthRequest, ObserveRecord, Storage
from testbed.kmesh.views import ManagedSet, SockhashKeys, VerdictMap
from testbed.lab.family import ConnTuple
from testbed.observe.callbacks import Callback, CallbackFlag
from testbed.observe.events import Difference

K = TypeVar("K", bound=Hashable)
_Side = tuple[ConnTuple, Direction]


@dataclass(frozen=True)
class Violation:
    """One thing that the contract forbids: the invariant, of which connection, and the words.

    ``kinds`` are what it has in common with others, in a few words each: by these they are counted.
    ``expected`` and ``seen`` are the words in two, for who shows them side by side; ``concerns`` is the
    connection where the words name none, or name it themselves; ``callback`` is where it went wrong.
    """

    invariant: str
    connection: ConnTuple | None
    words: str
    kinds: tuple[str, ...]
    expected: str = ""
    seen: str = ""
    concerns: ConnTuple | None = None
    callback: Callback | None = None

    def __str__(self) -> str:
        of = f" of {self.connection}" if self.connection is not None else ""
        return f"{self.invariant}{of}: {self.words}"

    def difference(self) -> Difference:
        """The same for a story."""
        callback = self.callback
        return Difference(
            ", ".join(self.kinds),
            self.expected,
            self.seen or self.words,
            connection=self.connection or self.concerns,
            host=callback.host if callback is not None else None,
            time_ns=callback.time_ns if callback is not None else None,
        )


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
        wanted = "\n".join(f"{each.name} {each.expected()}" for each in fields if not each.kept)
        come = "\n".join(f"{each.name} {each.seen()}" for each in fields if not each.kept)
        named = _name(expected)
        told = f"{named}\n{wanted}", f"{named}\n{come}"
        yield Violation("record", expected.tuple, words, kinds, *told, callback=expected.callback)


def _unmatched(missing: list[ExpectedRecord], strange: list[ObserveRecord]) -> Iterator[Violation]:
    """A record under a wrong tuple is one expected and one strange: told together where one fits."""
    for each in missing:
        fitting = [one for one in strange if one.event == (each.direction, each.state)]
        if fitting:
            strange.remove(fitting[0])
            yield from _differences(each, fitting[0])
        else:
            words = f"{_name(each)} is missing; it was due in: {each.callback}"
            kinds = (f"{_name(each)} record: missing",)
            told = f"a record {_name(each)}", "none"
            yield Violation("record", each.tuple, words, kinds, *told, callback=each.callback)
    for record in strange:
        words = f"nothing called for this one, or not again: {record}"
        kinds = (f"{_name(record)} record: not called for",)
        yield Violation("record", record.tuple, words, kinds, f"no record {_name(record)}", str(record))


def requests(
    expected: Sequence[tuple[ConnTuple, Callback]], seen: Sequence[AuthRequest]
) -> Iterator[Violation]:
    """One for each connection accepted on a managed address, its unused bytes zero."""
    wanted, come = Counter(one for one, _ in expected), Counter(request.tuple for request in seen)
    due = dict(expected)
    for connection in (wanted - come).elements():
        kinds = ("request: missing",)
        told = "an authorization request", "none"
        words = "user space was not asked"
        yield Violation("request", connection, words, kinds, *told, callback=due[connection])
    for connection in (come - wanted).elements():
        words, kinds = "nothing called for it, or not again", ("request: not called for",)
        yield Violation(
            "request", connection, words, kinds, "no authorization request", f"one of {connection}"
        )
    for request in seen:
        if request.stale:
            words = f"unused bytes are not zero: {request.stale}"
            kinds = ("request: unused bytes",)
            yield Violation("request", request.tuple, words, kinds, "unused bytes zero", request.stale)


def flags(watched: Iterable[tuple[Callback, bool]]) -> Iterator[Violation]:
    """STATE_CB_FLAG on every socket that the program reports, and on no other; no flag besides."""
    for callback, expected in watched:
        wanted = CallbackFlag.STATE if expected else CallbackFlag(0)
        if callback.flags != wanted:
            told = [flags.name or "none" for flags in (wanted, callback.flags)]
            words = f"expected {told[0]}, seen {told[1]} after: {callback}"
            kinds = (f"flags: {told[1]}, not {told[0]}",)
            both = f"callback flags {told[0]}", f"{told[1]} after {callback}"
            concerns = local_to_remote(callback)
            yield Violation("flags", None, words, kinds, *both, concerns=concerns, callback=callback)


def _mappings(what: str, expected: Mapping[K, object], seen: Mapping[K, object]) -> Iterator[Violation]:
    for key in [*expected, *(key for key in seen if key not in expected)]:
        if expected.get(key) != seen.get(key):
            told = [str(found[key]) if key in found else "nothing" for found in (expected, seen)]
            kind = f"{what}: " + (
                "missing" if key not in seen else "left" if key not in expected else "value"
            )
            concerns = key if isinstance(key, ConnTuple) else None
            words = f"{key}: expected {told[0]}, seen {told[1]}"
            yield Violation(
                what, None, words, (kind,), f"{what}: {key}: {told[0]}", f"{what}: {key}: {told[1]}", concerns
            )


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
        words, kinds = "the socket is not in it", ("sockhash: missing",)
        yield Violation("sockhash", connection, words, kinds, "the socket in the sockhash", "not in it")
    for connection in there - expected - unsure:
        words, kinds = "there is no such socket via a waypoint", ("sockhash: left",)
        yield Violation("sockhash", connection, words, kinds, "no such key in the sockhash", str(connection))
