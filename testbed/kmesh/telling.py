"""What the program set did, as events of a story: its records, and the changes of its maps.

A record and a change are told at the callback that they come of, where there is one that fits.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress

from testbed.bpf.kinds import ProgramKind
from testbed.bpf.maps import Map
from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Absent, Direction, Verdict
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.oracle.model import local_to_remote
from testbed.kmesh.profile import Role
from testbed.kmesh.records import (
    AccessRecord,
    MalformedRecord,
    ObserveRecord,
    Storage,
    decode_address_key,
    decode_tuple,
)
from testbed.lab.family import ConnTuple, endpoint
from testbed.observe.callbacks import Callback, Op
from testbed.observe.events import Event, Kind, Scalar
from testbed.observe.maps import Change, MapWatch

_WATCHED: tuple[Role, ...] = ("managed", "auth_results", "sockhash", "original_destinations", "metrics")
_ACTED_ON = {Op.TCP_CONNECT, Op.ACTIVE_ESTABLISHED, Op.PASSIVE_ESTABLISHED, Op.STATE}
# What is not called when data is sent on a connection. sk_msg is, but for the sockets of a sockhash alone.
_BLIND_TO_SENDS = {ProgramKind.SOCKOPS, ProgramKind.CONNECT4, ProgramKind.CONNECT6, ProgramKind.SK_MSG}
_Sockets = Callable[[], AbstractContextManager[list[tuple[int, int]]]]
_MANY = 64  # sockets whose storage is read each time
_Key = tuple[ConnTuple, Direction, TcpState]


class MeshTeller:
    """Watches the set at work in a lab. ``sockets`` gives cookie and descriptor of the test's open ones.

    ``is_quiet`` tells whether there has been no callback since somebody has looked.
    """

    def __init__(
        self,
        mesh: Mesh,
        sockets: Callable[[], AbstractContextManager[list[tuple[int, int]]]],
        is_quiet: Callable[[], bool] = lambda: False,
    ) -> None:
        self._mesh = mesh
        self._sockets = sockets
        self._is_quiet = is_quiet
        maps: dict[str, Map] = {role: found for role in _WATCHED if (found := mesh.map_of(role)) is not None}
        self._watch = MapWatch(maps)
        self._storages: dict[int, bytes] = {}
        self._storage_changes: list[Change] = []
        self._storage_map = mesh.map_of("storage")
        self._sends_are_seen = any(
            each.kind not in _BLIND_TO_SENDS for each in mesh.programs.programs.values()
        )
        mesh.ledger.around = self._around

    def sent(self) -> None:
        """Data that was sent is seen by sk_msg programs, and by them only where the sockhash has a socket."""
        if self._sends_are_seen or not self._watch.is_empty("sockhash"):
            self.note()

    def _around(self, by_user: bool) -> None:
        """Before user space changes something, and behind that."""
        now = time.monotonic_ns()
        if by_user or not self._is_quiet() or self._sends_are_seen or not self._watch.is_empty("sockhash"):
            self.note(by_user)
        else:
            self._watch.unchanged(now)

    def close(self) -> None:
        """What user space does from now on is not noted."""
        self._mesh.ledger.around = None

    def note(self, by_user: bool = False, *, last: bool = False) -> None:
        """As `testbed.observe.maps.MapWatch.note`."""
        since = self._watch.since_ns
        self._watch.note(by_user, last=last)
        if self._storage_map is None:
            return
        with self._sockets() as there:
            self._note_storages(there[:_MANY], by_user, since)

    def _note_storages(self, there: Sequence[tuple[int, int]], by_user: bool, since_ns: int) -> None:
        assert self._storage_map is not None, "asked for where there is one"
        for cookie, fd in there:
            value = self._storage_map.get(fd.to_bytes(4, "little"))
            before = self._storages.get(cookie)
            if value != before:
                key = cookie.to_bytes(8, "little")
                since = since_ns if cookie in self._storages else 0  # before this the socket was nobody's
                until = self._watch.since_ns
                self._storage_changes.append(Change(since, until, "storage", key, before, value, by_user))
            if value is not None:
                self._storages[cookie] = value

    def tell(self, callbacks: Sequence[Callback]) -> Iterator[Event]:
        """Everything so far. ``callbacks`` are the tap's."""
        self.note(last=True)
        yield from self._records(callbacks)
        for change in (*self._watch.changes, *self._storage_changes):
            told = self._change(change, callbacks)
            if told is not None:
                yield told

    def _records(self, callbacks: Sequence[Callback]) -> Iterator[Event]:
        due = _due(callbacks)
        end = callbacks[-1].time_ns if callbacks else self._mesh.since_ns

        def at(key: _Key, otherwise: int) -> tuple[int, str | None]:
            waiting = due[key]
            each = waiting.pop(0) if waiting else None
            return (otherwise, None) if each is None else (each.time_ns, each.host)

        for words in self._malformed():
            yield Event(end, Kind.RECORD, words)
        for record in self._mesh.reports():
            key = (record.tuple, record.direction, record.state)
            time_ns, host = at(key, record.values.get("last_report_ns", end))
            values: dict[str, Scalar] = {**record.values}
            yield Event(time_ns, Kind.RECORD, _record(record), host, connection=record.tuple, details=values)
        with suppress(Absent):
            for logged in self._mesh.access_log:
                time_ns, host = at((logged.tuple, logged.direction, TcpState.CLOSE), end)
                yield Event(time_ns, Kind.RECORD, _access(logged), host, connection=logged.tuple)
        due = _due(callbacks)
        with suppress(Absent):
            for request in self._mesh.auth_requests:
                time_ns, host = at((request.tuple, Direction.INBOUND, TcpState.ESTABLISHED), end)
                yield Event(time_ns, Kind.RECORD, "authorization request", host, connection=request.tuple)
        for complaint in self._mesh.complaints():
            yield Event(end, Kind.RECORD, f"log: {complaint}")

    def _malformed(self) -> Iterator[str]:
        """The records that are none, which each stream tells once, to whoever comes to them first."""
        mesh = self._mesh
        for read in (mesh.reports, mesh.complaints, lambda: list(mesh.auth_requests)):
            told = True
            while told:
                told = False
                try:
                    with suppress(Absent):
                        read()
                except MalformedRecord as error:
                    told = True
                    yield f"malformed: {error}"

    def _change(self, change: Change, callbacks: Sequence[Callback]) -> Event | None:
        """None for one that has nothing a person would look at: the time of a report in a storage.

        It is told at the callback that it comes of; where several can have made it, at the last of them,
        as something that was so by then.
        """
        text, connection, cookie, details = self._told(change)
        details = {"map": change.name, "from_ns": change.from_ns, "to_ns": change.to_ns, **details}
        time_ns, host = change.to_ns, None
        if not change.by_user:
            fitting = [
                each
                for each in callbacks
                if each.op in _ACTED_ON
                and change.from_ns <= each.time_ns <= change.to_ns
                and _fits(each, connection, cookie, details)
            ]
            if fitting:
                time_ns = fitting[-1].time_ns
            if len(fitting) == 1:
                host = fitting[0].host
            elif fitting:
                text = f"by now {text}"
        if not text:
            return None
        who = "user space: " if change.by_user else ""
        return Event(
            time_ns, Kind.CHANGE, who + text, host, cookie=cookie, connection=connection, details=details
        )

    def _told(self, change: Change) -> tuple[str, ConnTuple | None, int | None, dict[str, Scalar]]:
        """A change in words, and which connection, socket or address it is about."""
        sign = "+" if change.before is None else "−" if change.after is None else "="
        ports = self._mesh.profile.ports
        if change.name == "storage":
            return self._stored(change)
        if change.name == "managed":
            host = self._mesh.lab.host_of_cookie(int.from_bytes(change.key[:8], "little"))
            if host is not None and not any(change.key[8:]):
                return f"managed {sign} the namespace of {host}", None, None, {}
            address = decode_address_key(change.key)
            value = int.from_bytes(change.after or b"", "little")
            told = f" = {value}" if change.after is not None else ""
            return f"managed {sign} {address}{told}", None, None, {"address": str(address)}
        if change.name == "auth_results":
            connection = decode_tuple(change.key, ports.auth)
            told = f" {_verdict(change.after)}" if change.after is not None else ""
            return f"verdict {sign} {connection}{told}", connection, None, {}
        if change.name == "sockhash":
            connection = decode_tuple(change.key, ports.sockhash)
            return f"sockhash {sign} {connection}", connection, None, {}
        return f"{change.name} {sign} {change.key.hex()}", None, None, {}

    def _stored(self, change: Change) -> tuple[str, ConnTuple | None, int | None, dict[str, Scalar]]:
        cookie = int.from_bytes(change.key, "little")
        if change.after is None:
            return "storage − gone", None, cookie, {}
        after = self._mesh.storage.decode(change.after)
        before = self._mesh.storage.decode(change.before) if change.before is not None else Storage()
        words = [word for word in _fields(after) if change.before is None or word not in _fields(before)]
        if change.before is not None and not words:
            return "", None, cookie, {}
        return f"storage {'+' if change.before is None else '='} {' '.join(words)}", None, cookie, {}


def _fields(storage: Storage) -> list[str]:
    """What a storage holds, times left out: they are those of the callbacks beside it."""
    words = [f"asked for {endpoint(*storage.asked_for)}"] if storage.asked_for else []
    names = ("via_waypoint", "has_encoded", "has_set_ip", "connect_success")
    words += [name for name in names if getattr(storage, name)]
    if storage.direction:
        words.append(f"direction={storage.direction}")
    return words


def _verdict(value: bytes | None) -> str:
    number = int.from_bytes(value or b"", "little")
    return next((each.name for each in Verdict if each == number), str(number))


def _due(callbacks: Iterable[Callback]) -> defaultdict[_Key, list[Callback]]:
    """The callbacks that records come of, by what these are told by."""
    due: defaultdict[_Key, list[Callback]] = defaultdict(list)
    for each in callbacks:
        own = local_to_remote(each)
        if each.op is Op.ACTIVE_ESTABLISHED:
            due[own, Direction.OUTBOUND, TcpState.ESTABLISHED].append(each)
        elif each.op is Op.PASSIVE_ESTABLISHED:
            due[own.reversed, Direction.INBOUND, TcpState.ESTABLISHED].append(each)
        elif each.op is Op.STATE and each.change[1] is TcpState.CLOSE:
            due[own, Direction.OUTBOUND, TcpState.CLOSE].append(each)
            due[own.reversed, Direction.INBOUND, TcpState.CLOSE].append(each)
    return due


def _fits(
    each: Callback, connection: ConnTuple | None, cookie: int | None, details: dict[str, Scalar]
) -> bool:
    if cookie is not None:
        return each.cookie == cookie
    if connection is not None:
        return local_to_remote(each) in {connection, connection.reversed}
    return str(each.local) == details.get("address", str(each.local))


def _record(record: ObserveRecord) -> str:
    told = f"{record.direction.name}/{record.state.name}"
    if (
        record.destination != (record.tuple.dst, record.tuple.dport)
        and record.direction is Direction.OUTBOUND
    ):
        told += f" asked for {endpoint(*record.destination) if record.destination else 'nothing'}"
    if record.state is not TcpState.CLOSE:
        return told
    numbers = ("sent_bytes", "received_bytes")
    counted = " ".join(f"{name}={record.values[name]}" for name in numbers if name in record.values)
    return f"{told} {counted} duration={record.values.get('duration', 0) / 1000:.0f} µs"


def _access(record: AccessRecord) -> str:
    return (
        f"access log {record.direction.name} sent_bytes={record.sent_bytes}"
        f" received_bytes={record.received_bytes} duration={record.duration_ns / 1000:.0f} µs"
    )
