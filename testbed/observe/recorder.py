"""The recorder: everything that happens in a lab, taken down while it happens and told afterwards.

What is taken down is raw: callbacks, calls, frames, state changes, readings of maps. A story is made of it
when somebody asks, which is after a failure, mostly.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from testbed.closing import Closing
from testbed.errors import EventsLost
from testbed.lab.chronicle import Note
from testbed.lab.family import ConnTuple
from testbed.lab.lab import Lab
from testbed.observe.callbacks import Callback, CallbackFlag, Op
from testbed.observe.calls import Call, CallLog
from testbed.observe.capture import Capture, CaptureProgram, Frame
from testbed.observe.connections import sort_out
from testbed.observe.events import Difference, Event, Kind, Story
from testbed.observe.segments import Segment, TcpFlag, decode_frame
from testbed.observe.states import StateChange, States, StatesProgram
from testbed.observe.tap import Tap

_BY_THE_WAY = {"bind", "detach", "getsockopt", "listen", "setsockopt"}  # no program has a part in these
_TAKE_IN = 32  # calls: a connection and its segments are a dozen events in rings of thousands


class Teller(Protocol):
    """Somebody who knows more of what happened: the program set's own records and maps, for example."""

    def note(self) -> None:
        """The test has made a call that programs had a part in: time to look."""

    def sent(self) -> None:
        """The test has sent data, and there was no callback: something to look at for some sets."""

    def tell(self, callbacks: Sequence[Callback]) -> Iterator[Event]:
        """Everything so far."""

    def close(self) -> None:
        """There is nothing more to note."""


class Recorder(Closing):
    """Records a lab until it is closed; what it has recorded can be told after that too.

    ``capture`` and ``states`` are programs that are loaded already, None for doing without; ``absent``
    is told of every story: what cannot be recorded here, and why.
    """

    def __init__(
        self,
        lab: Lab,
        tap: Tap,
        *,
        capture: CaptureProgram | None = None,
        states: StatesProgram | None = None,
        absent: Iterable[str] = (),
    ) -> None:
        self.lab = lab
        self.tap = tap
        self.capture: Capture | None = None
        self._states: States | None = None
        self._tellers: list[Teller] = []
        self._calls_until_read = _TAKE_IN
        self._noted = 0
        self._lost: dict[str, str] = {words: f"not recorded: {words}" for words in absent}
        with ExitStack() as stack:
            if capture is not None:
                self.capture = stack.enter_context(capture.capture(lab))
            if states is not None:
                self._states = stack.enter_context(states.states(lab))
            self.calls = CallLog(self._called, every=1)
            stack.enter_context(self.calls.record(lab))
            self._undo = stack.pop_all()

    def add(self, teller: Teller) -> None:
        """Has somebody more note and tell."""
        self._tellers.append(teller)
        self._undo.callback(teller.close)

    def _called(self) -> None:
        """The maps can have changed where there was a callback, or data was sent through a program."""
        name = self.calls.raw[-1][4]
        if name not in _BY_THE_WAY:
            if not self.is_quiet():
                for teller in self._tellers:
                    teller.note()
            elif name.startswith("send"):
                for teller in self._tellers:
                    teller.sent()
        self._calls_until_read -= 1
        if not self._calls_until_read:
            self.read()

    def is_quiet(self) -> bool:
        """Whether there has been no callback since somebody looked last; whoever asks looks now."""
        before, self._noted = self._noted, self.tap.taken()
        return before == self._noted

    def read(self) -> None:
        """Takes in what has come. Where a ring was full, the story is not whole and says so."""
        self._calls_until_read = _TAKE_IN
        for each in (self.tap, self.capture, self._states):
            if each is None:
                continue
            try:
                each.read()
            except EventsLost as error:
                self._lost[type(each).__name__] = str(error)

    @contextmanager
    def open_sockets(self) -> Iterator[list[tuple[int, int]]]:
        """The cookie and the descriptor of each TCP socket that the test has open, and keeps open meanwhile.

        None of them while another thread is closing one, which may take as long as it likes.
        """
        if not self.calls.lock.acquire(blocking=False):
            yield []
            return
        try:
            there = [(each.cookie, each.fileno()) for each in self.calls.sockets if each.is_stream]
            yield [(cookie, fd) for cookie, fd in there if fd >= 0]
        finally:
            self.calls.lock.release()

    @property
    def frames(self) -> list[Frame]:
        """What was on the wires, oldest first."""
        return self.capture.frames if self.capture is not None else []

    def lost(self) -> tuple[str, ...]:
        """What could not be recorded, in words."""
        self.read()
        return tuple(self._lost.values())

    def events(self) -> list[Event]:
        """Everything so far, each with the tuple of its own side."""
        callbacks = [self._placed(each) for each in self.tap.so_far()]
        told = [*callback_events(callbacks)]
        told += map(call_event, self.calls.calls)
        told += _segments(self.frames)
        if self._states is not None:
            told += map(state_event, self._states.changes)
        told += [note_event(note) for each in self.lab.chronicles for note in each.notes()]
        for teller in self._tellers:
            told += teller.tell(callbacks)
        return told

    def _placed(self, each: Callback) -> Callback:
        """By its address, where the kernel does not tell whose socket it is (before Linux 5.15)."""
        if each.host is not None:
            return each
        for name, host in self.lab.hosts.items():
            if each.local in host.addresses:
                return each._replace(host=name)
        return each

    def story(
        self, test: str, title: str, verdict: str, message: str = "", differences: Iterable[Difference] = ()
    ) -> Story:
        """What happened so far, as the story of a test."""
        lost = self.lost()
        connections, others = sort_out(self.events())
        return Story(
            test=test,
            title=title,
            verdict=verdict,
            message=message,
            topology=self.lab.topology.as_dict(),
            connections=connections,
            others=others,
            differences=tuple(differences),
            lost=lost,
            wall_ns=time.time_ns() - time.monotonic_ns(),
        )

    def close(self) -> None:
        """Ends the recording: hosts hand out plain sockets again."""
        self._undo.close()


def callback_events(callbacks: Iterable[Callback]) -> Iterator[Event]:
    """sockops callbacks; the words name the flags of a socket where they are others than before."""
    before: dict[int, CallbackFlag] = {}
    for each in callbacks:
        yield callback_event(each, before.get(each.cookie, CallbackFlag(0)))
        before[each.cookie] = each.flags


def callback_event(each: Callback, before: CallbackFlag) -> Event:
    """A sockops callback, of a socket that had these flags before: ``ACTIVE_ESTABLISHED flags STATE``."""
    change = f" {' → '.join(state.name for state in each.change)}" if each.op is Op.STATE else ""
    flags = "|".join(flag.name or "?" for flag in each.flags)
    told = "" if each.flags == before else f" flags {flags or 'none'}"
    return Event(
        each.time_ns,
        Kind.CALLBACK,
        f"{each.op.name}{change}{told}",
        host=each.host,
        cookie=each.cookie,
        connection=ConnTuple(each.local, each.local_port, each.remote, each.remote_port),
        details={"op": each.op.name, "state": each.state.name, "flags": flags, **each.figures._asdict()},
    )


def call_event(each: Call) -> Event:
    """A call that the test made; of accept(), the cookie is that of the socket it returned."""
    return Event(
        each.time_ns,
        Kind.CALL,
        each.text,
        host=each.host,
        cookie=each.accepted or each.cookie,
        details={"call": each.name, "took_ns": each.took_ns, "error": each.error or None},
    )


def state_event(each: StateChange) -> Event:
    """A change of a socket's state, as the kernel made it."""
    text = f"{each.old.name} → {each.new.name}"
    details = {"old": each.old.name, "new": each.new.name}
    return Event(
        each.time_ns, Kind.STATE, text, each.host, None, each.cookie or None, each.tuple, dict(details)
    )


def note_event(note: Note) -> Event:
    """What was done to a segment, or to a connect()."""
    kind = Kind.GATE if note.kind == "gate" else Kind.CALLBACK
    return Event(note.time_ns, kind, note.text, note.host, note.to, note.cookie, note.connection)


def _segments(frames: Iterable[Frame]) -> Iterator[Event]:
    """Sequence numbers are told from the SYN's of the same side on; what was sent before is told so."""
    first: dict[ConnTuple, int] = {}
    sent: set[tuple[int, ConnTuple, int, int, int]] = set()
    for frame in frames:
        segment = decode_frame(frame.data, frame.length)
        if isinstance(segment, str):
            yield Event(frame.time_ns, Kind.SEGMENT, segment, frame.sender, frame.receiver)
            continue
        if segment.flags & TcpFlag.SYN:
            first[segment.tuple] = segment.seq
        seq = _since(first.get(segment.tuple), segment.seq)
        key = (frame.link, segment.tuple, segment.seq, segment.payload_length, int(segment.flags))
        moves = segment.payload_length or segment.flags & (TcpFlag.SYN | TcpFlag.FIN)
        again = bool(moves) and key in sent
        sent.add(key)
        yield Event(
            frame.time_ns,
            Kind.SEGMENT,
            _told(segment, seq, again),
            host=frame.sender,
            to=frame.receiver,
            connection=segment.tuple,
            details={
                "flags": _flags(segment),
                "seq": seq,
                "ack": _since(first.get(segment.tuple.reversed), segment.ack),
                "length": segment.payload_length,
                "payload": segment.payload[:48].hex(),
                "again": again,
                "link": frame.link,
                "window": segment.window,
            },
        )


def _since(first: int | None, number: int) -> int:
    return number if first is None else (number - first) & 0xFFFFFFFF


def _flags(segment: Segment) -> str:
    return ",".join(flag.name or "?" for flag in segment.flags)


def _told(segment: Segment, seq: int, again: bool) -> str:
    """``SYN``, ``SYN,ACK``, ``ACK``, ``27 B at 1``, ``FIN,ACK at 28 again``."""
    plain = segment.payload_length and segment.flags in {TcpFlag.ACK, TcpFlag.ACK | TcpFlag.PSH}
    words = [] if plain else [_flags(segment)]
    if segment.payload_length:
        words.append(f"{segment.payload_length} B")
    if segment.payload_length or segment.flags & TcpFlag.FIN:
        words.append(f"at {seq}")
    return " ".join([*words, *(["again"] if again else [])])
