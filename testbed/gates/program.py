"""The gate's program, loaded once a process, and the board: its rules in a lab, and what they tell."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from testbed.bpf.attach import Interface, attach
from testbed.bpf.bcc_loader import SourceSet
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.locked import locked_value
from testbed.bpf.own_program import load_own
from testbed.bpf.program_set import ProgramSet
from testbed.closing import Closing
from testbed.data import data_dir
from testbed.errors import EventsLost, ProgramError, UsageError
from testbed.gates.kinds import SegmentKind
from testbed.gates.matched import Action, GateEvent, decode_event
from testbed.kernel.links import End
from testbed.lab.host import Host
from testbed.lab.lab import Lab

MOST_GATES = 16  # GATE_RULES of bpf/include/gate_maps.h
_RULE = struct.Struct("=I2IIHBBBB2x")  # struct gate_rule
_COUNT = struct.Struct("=4xII")  # struct gate_count
_PAYLOADS = {None: 0, True: 1, False: 2}


def gate_sources() -> SourceSet:
    """The sources of the program, which every kernel takes."""
    bpf = data_dir("bpf")
    maps = ("gate_events", "gate_rules", "gate_counts", "gate_failures")
    programs = (("gate", ProgramKind.TC_INGRESS),)
    return SourceSet("gate", (bpf / "gate.c",), (bpf / "include",), programs, maps)


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction of a link: who sends by which end, and where it arrives."""

    sender: Host
    end: End
    to: Host
    to_end: End

    @property
    def arrival(self) -> Interface:
        """Where the program sees its segments."""
        return Interface(self.to.namespace.netns_fd, self.to_end.index, self.to_end.name)


class Rule(Protocol):
    """What a board needs to know of a gate."""

    kind: SegmentKind
    action: Action
    nth: int | None
    port: int | None
    directions: tuple[Direction, ...]

    def note(self, event: GateEvent) -> None:
        """It has acted on a segment."""

    def passed_on(self, event: GateEvent) -> None:
        """A segment that it had held has arrived."""

    def at_rest(self) -> None:
        """It acts no more, and has noted all that it did; the program is there still."""

    def pending(self) -> list[str]:
        """What it still holds."""

    def story(self) -> str:
        """What it is and did, in lines."""


class GateProgram(Closing):
    """The program, loaded once a process; it is attached only where a gate is, and while it is there."""

    def __init__(self, loader: ObjectLoader | None = None) -> None:
        """``loader`` is one that is there already."""
        self._set = load_own(gate_sources(), loader)
        self._ids = itertools.count(1)
        self._board: Board | None = None

    def board(self, lab: Lab) -> Board:
        """The rules of a lab. `UsageError` while another lab has some."""
        if self._board is None or self._board.is_empty:
            self._board = Board(self._set, self._ids, lab)
        elif self._board.lab is not lab:
            raise UsageError(
                f"set a gate in {lab!r}",
                "the program has gates in another lab, and its ring is one's at a time",
                "end those first, or load the program once more",
            )
        return self._board

    def close(self) -> None:
        self._set.close()


class Board:
    """The gates of one lab: the last one set is asked first. A witness of the lab while there are any."""

    def __init__(self, program_set: ProgramSet, ids: Iterator[int], lab: Lab) -> None:
        self.lab = lab
        self._program = program_set.programs["gate"]
        self._events = program_set.maps["gate_events"].reader
        self._rules = program_set.maps["gate_rules"]
        self._counts = program_set.maps["gate_counts"]
        self._failures = program_set.maps["gate_failures"]
        self._ids = ids
        self._slots: dict[int, tuple[int, Rule]] = {}
        self._noted: dict[int, int] = {}
        self._shared: dict[object, tuple[int, ExitStack]] = {}
        self._under_way: list[tuple[GateEvent, Rule]] = []
        self._events.take()  # what nobody took, of a lab before this one
        self._failed_before = self._failed()

    @property
    def is_empty(self) -> bool:
        """Whether no gate is there any more."""
        return not self._slots

    @contextmanager
    def rule(self, rule: Rule) -> Iterator[None]:
        """A gate is at work within the block; at its end, all that it did has been noted."""
        slot = min(self._slots, default=MOST_GATES) - 1
        if slot < 0:
            raise UsageError("set a gate", f"{MOST_GATES} are there, and no more can be at once")
        number = next(self._ids)
        with ExitStack() as stack:
            for each in rule.directions:
                stack.enter_context(self._attached(each))
            stack.enter_context(self._listed(slot, number, rule))
            stack.callback(rule.at_rest)
            stack.enter_context(self._at_work(slot, number, rule))
            yield

    @contextmanager
    def _listed(self, slot: int, number: int, rule: Rule) -> Iterator[None]:
        if self.is_empty:
            self.lab.witnesses.append(self)
        self._slots[slot] = number, rule
        self._noted[number] = 0
        try:
            yield
        finally:
            del self._slots[slot]
            del self._noted[number]
            if self.is_empty:
                self.lab.witnesses.remove(self)

    @contextmanager
    def _at_work(self, slot: int, number: int, rule: Rule) -> Iterator[None]:
        key = slot.to_bytes(4, "little")
        self._counts.set(key, bytes(self._counts.value_size))
        self._rules.set(key, _encoded(rule, number, 0))
        self._rules.set(key, _encoded(rule, number, rule.action))
        try:
            yield
        finally:
            self._rules.set(key, bytes(_RULE.size))
            # Whoever counts under the lock from now on finds no rule. Who did before may not have told yet.
            taken: int = _COUNT.unpack(locked_value(self._counts, key))[1]

            def is_told() -> bool:
                self.read()
                return self._noted[number] >= taken

            self.lab.eventually(is_told, awaited=f"what a gate did with {taken} segments, to be told")

    @contextmanager
    def _attached(self, direction: Direction) -> Iterator[None]:
        with self.shared(direction.to_end.index, lambda stack: self._attach(direction, stack)):
            yield

    def _attach(self, direction: Direction, stack: ExitStack) -> None:
        """By a filter, in 0.3 ms: to make a link takes the kernel 8 to 20, and to undo it as long."""
        filtered = ExitStack()
        try:
            attach(self._program, direction.arrival, filtered, links=False)
        except ProgramError:  # of a kernel without cls_bpf
            attach(self._program, direction.arrival, stack)
        stack.callback(_unless_gone, direction.to, filtered)

    @contextmanager
    def shared(self, key: object, enter: Callable[[ExitStack], None]) -> Iterator[None]:
        """What several gates need at once: the first makes it, and the last takes it back."""
        users, stack = self._shared.get(key, (0, ExitStack()))
        if not users:
            with ExitStack() as made:
                enter(made)
                stack = made.pop_all()
        self._shared[key] = users + 1, stack
        try:
            yield
        finally:
            users, stack = self._shared.pop(key)
            if users > 1:
                self._shared[key] = users - 1, stack
            else:
                stack.close()

    def send(self, rule: Rule, events: list[GateEvent], send: Callable[[GateEvent], None]) -> None:
        """Sends what was held, in order; returns when all of it has arrived."""
        __tracebackhide__ = True
        waiting = [(event, rule) for event in events]

        def has_arrived() -> bool:
            self.read()
            return not any(each in self._under_way for each in waiting)

        self._under_way += waiting
        try:
            for event in events:
                send(event)
            awaited = f"{len(events)} segments that were held, to arrive"
            self.lab.eventually(has_arrived, awaited=awaited)
        finally:
            self._under_way[:] = [each for each in self._under_way if each not in waiting]

    def _failed(self) -> tuple[int, int]:
        events, actions = (
            int.from_bytes(self._failures.get(which.to_bytes(4, "little")) or b"", "little")
            for which in (0, 1)
        )
        return events, actions

    def read(self) -> None:
        """Takes in what has come. `EventsLost` when that is not all."""
        for data in self._events.take():
            event = decode_event(data)
            if event.action is Action.RELEASED:
                self._arrived(event)
                continue
            for number, rule in self._slots.values():
                if number == event.gate:
                    self._noted[number] += 1
                    rule.note(event)
        events, actions = map(int.__sub__, self._failed(), self._failed_before)
        if events:
            raise EventsLost(f"the gates lost {events} segments: their ring was full; read it more often")
        if actions:
            raise EventsLost(f"the kernel refused to duplicate or corrupt {actions} segments")

    def _arrived(self, event: GateEvent) -> None:
        for index, (held, rule) in enumerate(self._under_way):
            if held.interface == event.interface and held.identity == event.identity:
                del self._under_way[index]
                rule.passed_on(event)
                return

    def fileno(self) -> int:
        """A descriptor that is readable when a gate has done something."""
        return self._events.fileno()

    def pending(self, present: Set[int]) -> list[str]:  # noqa: ARG002 (a segment has no socket)
        """What is held: it is under way still, whatever the sockets look like."""
        self.read()
        return [what for _, rule in self._slots.values() for what in rule.pending()]

    def story(self) -> str:
        """The gates that are there, and what each did."""
        return "\n".join(["gates:", *(rule.story() for _, rule in self._slots.values())])


def _unless_gone(host: Host, stack: ExitStack) -> None:
    """What was in a host's namespace has gone with it."""
    if host.is_gone:
        stack.pop_all()
    else:
        stack.close()


def _encoded(rule: Rule, number: int, action: int) -> bytes:
    indices = [each.to_end.index for each in rule.directions]
    kind = rule.kind
    return _RULE.pack(
        number,
        indices[0],
        indices[1] if len(indices) > 1 else 0,
        rule.nth or 0,
        rule.port or 0,
        kind.mask,
        kind.flags,
        _PAYLOADS[kind.payload],
        action,
    )
