"""What happens in a lab, while it happens: for who watches. Nothing is recorded while nobody does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from testbed.bpf.kinds import MapType
from testbed.bpf.maps import Map
from testbed.closing import Closing
from testbed.errors import EventsLost
from testbed.keeper.kept import Kept, Placed
from testbed.keeper.maps import decoded, plain, role_of, words_of_key
from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Absent
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.records import MalformedRecord
from testbed.kmesh.views import Stream
from testbed.observe.callbacks import Callback, CallbackFlag, Op
from testbed.observe.capture import Capture, CaptureProgram, Frame
from testbed.observe.events import Event, Kind, Scalar
from testbed.observe.maps import Change, MapWatch
from testbed.observe.recorder import callback_event
from testbed.observe.segments import TcpFlag, decode_frame
from testbed.observe.tap import Tap, TapProgram

_STREAMS = {
    "observed": "",
    "auth_requests": "authorization request ",
    "log": "log: ",
    "access_log": "access log ",
}


@dataclass
class Batch:
    """What has come since the last time: events and frames, and in words what was lost."""

    events: list[Event] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    frames_lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.events or self.frames or self.notes)


class Source(Protocol):
    """Something that events come from."""

    def filenos(self) -> Sequence[int]:
        """Descriptors that are readable when something has come."""

    def drain(self, batch: Batch) -> None:
        """Adds what has come to a batch."""


class _Callbacks:
    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._flags: dict[int, CallbackFlag] = {}
        with suppress(EventsLost):  # while nobody watched
            tap.read()
        tap.forget()

    def filenos(self) -> Sequence[int]:
        return [self._tap.fileno()]

    def drain(self, batch: Batch) -> None:
        try:
            batch.events += map(self._event, self._tap)
        except EventsLost as error:
            batch.notes.append(str(error))
        self._tap.forget()

    def _event(self, each: Callback) -> Event:
        before = self._flags.get(each.cookie, CallbackFlag(0))
        self._flags[each.cookie] = each.flags
        if each.op is Op.STATE and each.change[1] is TcpState.CLOSE:
            del self._flags[each.cookie]
        return callback_event(each, before)


class _Frames:
    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._lost = 0

    def filenos(self) -> Sequence[int]:
        return [self._capture.fileno()]

    def drain(self, batch: Batch) -> None:
        frames = self._capture.take()
        batch.frames += frames
        batch.events += map(_segment, frames)
        if (lost := self._capture.lost) != self._lost:
            batch.frames_lost = lost - self._lost
            batch.notes.append(f"the capture lost {batch.frames_lost} frames: its ring was full")
            self._lost = lost


def _segment(frame: Frame) -> Event:
    segment = decode_frame(frame.data, frame.length)
    if isinstance(segment, str):
        return Event(frame.time_ns, Kind.SEGMENT, segment, frame.sender, frame.receiver)
    flags = ",".join(flag.name or "?" for flag in segment.flags)
    data = f" {segment.payload_length} B" if segment.payload_length else ""
    ack = f" ack {segment.ack}" if segment.flags & TcpFlag.ACK else ""
    return Event(
        frame.time_ns,
        Kind.SEGMENT,
        f"{flags}{data} seq {segment.seq}{ack}",
        frame.sender,
        frame.receiver,
        connection=segment.tuple,
        details={"length": frame.length, "link": frame.link},
    )


class _Records:
    """The records that a set of the contract's ABI writes."""

    def __init__(self, mesh: Mesh) -> None:
        self._streams: list[tuple[str, Stream[Any]]] = []
        for name, words in _STREAMS.items():
            with suppress(Absent):
                stream: Stream[Any] = getattr(mesh, name)
                stream.drop()
                self._streams.append((words, stream))

    def filenos(self) -> Sequence[int]:
        return [stream.fileno() for _, stream in self._streams]

    def drain(self, batch: Batch) -> None:
        for words, stream in self._streams:
            batch.events += (
                Event(time.monotonic_ns(), Kind.RECORD, f"{words}{record}", connection=_tuple(record))
                for record in _taken(stream)
            )


def _taken(stream: Stream[Any]) -> list[Any]:
    taken: list[Any] = []
    while True:
        try:
            return taken + stream.take()
        except MalformedRecord as error:
            taken.append(f"malformed: {error}")


def _tuple(record: object) -> Any:
    return getattr(record, "tuple", None)


class _Rings:
    """The records of any other set, as bytes."""

    def __init__(self, placed: Placed) -> None:
        self._rings = placed.programs.rings
        for ring in self._rings.values():
            ring.reader.take()

    def filenos(self) -> Sequence[int]:
        return [ring.reader.fileno() for ring in self._rings.values()]

    def drain(self, batch: Batch) -> None:
        for name, ring in self._rings.items():
            batch.events += (
                Event(time.monotonic_ns(), Kind.RECORD, f"{name}: {plain(data)}")
                for data in ring.reader.take()
            )


class _Changes:
    """Changes of maps: what they hold is compared after each event. It has no descriptor of its own."""

    def __init__(self, kept: Kept, placed: Placed) -> None:
        self._kept = kept
        self._placed = placed
        self._maps = {each.name: each for each in placed.programs.maps.values() if _is_watched(each)}
        self._watch = MapWatch(self._maps)

    def filenos(self) -> Sequence[int]:
        return []

    def drain(self, batch: Batch) -> None:
        self._watch.note()
        for change in self._watch.changes:
            details: dict[str, Scalar] = {"map": change.name}
            batch.events.append(Event(change.to_ns, Kind.CHANGE, self._told(change), details=details))
        self._watch.changes.clear()

    def _told(self, change: Change) -> str:
        each, value = self._maps[change.name], change.after
        sign = "+" if change.before is None else "−" if value is None else "="
        key = words_of_key(self._kept, self._placed, each, change.key) or decoded(each.key_type, change.key)
        told = f"{role_of(self._placed, each.name) or each.name} {sign} {key}"
        return f"{told} = {decoded(each.value_type, value)}" if value else told


def _is_watched(each: Map) -> bool:
    if each.type == MapType.SOCKHASH:
        return True
    return each.type in {MapType.HASH, MapType.LRU_HASH} and not each.per_cpu


class Live(Closing):
    """The lab's events, from now until it is closed. ``programs`` are loaded once a keeper."""

    def __init__(self, kept: Kept, programs: Programs) -> None:
        with ExitStack() as stack:
            tap = kept.tap or stack.enter_context(programs.tap.tap(kept.lab))
            capture = stack.enter_context(programs.capture.capture(kept.lab))
            self._sources: list[Source] = [_Callbacks(tap), _Frames(capture)]
            for placed in kept.placed:
                self._sources.append(_Records(placed.mesh) if placed.mesh else _Rings(placed))
                self._sources.append(_Changes(kept, placed))
            self._undo = stack.pop_all()

    def filenos(self) -> Iterator[int]:
        """Descriptors of which one is readable when something has come."""
        return (fd for source in self._sources for fd in source.filenos())

    def drain(self) -> Batch:
        """What has come, in the order of its times."""
        batch = Batch()
        for source in self._sources:
            source.drain(batch)
        batch.events.sort(key=lambda each: each.time_ns)
        return batch

    def close(self) -> None:
        self._undo.close()


class Programs(Closing):
    """The observers' own programs, loaded when they are needed first."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._loaded: dict[type[TapProgram | CaptureProgram], Any] = {}

    def _load(self, kind: type[TapProgram | CaptureProgram]) -> Any:
        if kind not in self._loaded:
            self._loaded[kind] = self._stack.enter_context(kind())
        return self._loaded[kind]

    @property
    def tap(self) -> TapProgram:
        loaded: TapProgram = self._load(TapProgram)
        return loaded

    @property
    def capture(self) -> CaptureProgram:
        loaded: CaptureProgram = self._load(CaptureProgram)
        return loaded

    def close(self) -> None:
        self._stack.close()


def as_json(event: Event) -> Mapping[str, object]:
    """An event as it is sent."""
    return {
        "time_ns": event.time_ns,
        "kind": event.kind.value,
        "text": event.text,
        "host": event.host,
        "to": event.to,
        "cookie": event.cookie,
        "connection": str(event.connection) if event.connection else None,
        "details": event.details,
    }


def drop_unwatched(kept: Kept) -> None:
    """Takes what is in the rings while nobody watches: a full ring would keep the programs from writing."""
    for placed in kept.placed:
        if placed.mesh is None:
            for ring in placed.programs.rings.values():
                ring.reader.take()
            continue
        for name in _STREAMS:
            with suppress(Absent):
                getattr(placed.mesh, name).drop()


def unwatched_filenos(kept: Kept) -> list[int]:
    """The rings' descriptors."""
    return [ring.reader.fileno() for placed in kept.placed for ring in placed.programs.rings.values()]
