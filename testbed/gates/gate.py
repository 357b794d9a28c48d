"""One gate: what it is to do, and what it has done."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.errors import UsageError
from testbed.gates.frames import prepared, send_again
from testbed.gates.kinds import SegmentKind
from testbed.gates.matched import LOST, Action, GateEvent, Matched
from testbed.gates.program import Board, Direction
from testbed.kernel.offload import offload_checksums, offloads_checksums
from testbed.lab.host import Host
from testbed.lab.wait import DEADLINE_S

_TOLD = 50


@dataclass(frozen=True)
class Order:
    """What a gate was asked for, in words, and as the program is told."""

    words: str
    kind: SegmentKind
    action: Action
    nth: int | None
    port: int | None
    directions: tuple[Direction, ...]


class Gate(Closing):
    """At work from when it is made until the end of its block. A match is a segment that it acted on."""

    def __init__(self, board: Board, order: Order, log: list[Matched]) -> None:
        self.words = order.words
        self.kind = order.kind
        self.action = order.action
        self.nth = order.nth
        self.port = order.port
        self.directions = order.directions
        self._board = board
        self._log = log
        self._matches: list[Matched] = []
        self._is_open = False
        with ExitStack() as stack:
            self._open(stack)
            self._undo = stack.pop_all()

    def __repr__(self) -> str:
        return f"<{self.words}: {len(self._matches)} matches>"

    def _open(self, stack: ExitStack) -> None:
        if self.action is Action.CORRUPT:
            for each in self.directions:
                stack.enter_context(self._complete_checksums(each))
        stack.callback(setattr, self, "_is_open", False)
        stack.enter_context(self._board.rule(self))
        self._is_open = True

    @contextmanager
    def _complete_checksums(self, direction: Direction) -> Iterator[None]:
        """A segment without a checksum cannot have a wrong one."""
        sender, name = direction.sender, direction.end.name

        def enter(stack: ExitStack) -> None:
            with sender.socket() as sock:
                if not offloads_checksums(sock, name):
                    return
                stack.callback(_offload_again, sender, name)
                offload_checksums(sock, name, False)

        with self._board.shared(("checksums", direction.end.index), enter):
            yield

    @property
    def matches(self) -> list[Matched]:
        """What it has done so far, oldest first. `EventsLost` when that is not all."""
        if self._is_open:
            self._board.read()
        return list(self._matches)

    @property
    def count(self) -> int:
        """How many matches there were so far."""
        return len(self.matches)

    def seen(self, n: int = 1, deadline: float = DEADLINE_S) -> list[Matched]:
        """Waits until there were ``n`` matches; returns all of them. `WaitExpired` says what there was."""
        __tracebackhide__ = True
        self._board.lab.eventually(
            lambda: self.count >= n,
            awaited=lambda: f"{n} segments at {self.words}; there were {len(self._matches)}",
            deadline=deadline,
        )
        return self.matches

    def _direction(self, event: GateEvent) -> Direction:
        return next(each for each in self.directions if each.to_end.index == event.interface)

    def _matched(self, event: GateEvent, verb: str, time_ns: int, number: int) -> Matched:
        direction = self._direction(event)
        made = Matched(
            time_ns,
            self.words,
            verb,
            number,
            direction.sender.name,
            direction.to.name,
            event.ends,
            event.flags,
            event.seq,
            event.ack,
            event.payload,
        )
        self._log.append(made)
        return made

    def note(self, event: GateEvent) -> None:
        """It has acted on a segment."""
        self._matches.append(self._matched(event, event.action.verb, event.time_ns, event.number))

    def passed_on(self, event: GateEvent) -> None:
        """Nothing is held here."""

    def at_rest(self) -> None:
        """Nothing is held here."""

    def pending(self) -> list[str]:
        """Nothing is held here."""
        return []

    def story(self) -> str:
        """What it is and did, in lines."""
        lines = [f"    {self.words}: {len(self._matches)} matches"]
        lines += [f"        {each}" for each in self._matches[:_TOLD]]
        if len(self._matches) > _TOLD:
            lines.append(f"        … and {len(self._matches) - _TOLD} more")
        return "\n".join(lines)

    def close(self) -> None:
        """Ends it. What it did stays readable."""
        self._undo.close()


class HoldGate(Gate):
    """Holds segments until they are released or lost; at the end of its block, the rest arrives in order."""

    def __init__(self, board: Board, order: Order, log: list[Matched]) -> None:
        self._held: list[GateEvent] = []
        super().__init__(board, order, log)

    def _open(self, stack: ExitStack) -> None:
        super()._open(stack)
        stack.callback(self.release)  # while it holds, so that what is sent meanwhile overtakes nothing

    def note(self, event: GateEvent) -> None:
        super().note(event)
        self._held.append(event)

    @property
    def held(self) -> list[Matched]:
        """What it holds now, oldest first."""
        matches = {match.number: match for match in self.matches}
        return [matches[event.number] for event in self._held]

    def release(self, n: int | None = None) -> None:
        """Lets the oldest ``n`` segments arrive, in their order, or all; returns when they have.

        What comes meanwhile is held. `UsageError` when there are fewer.
        """
        __tracebackhide__ = True
        self._send_again(self._take(n, "release"))

    def lose(self, n: int | None = None) -> int:
        """The oldest ``n`` segments, or all, never arrive; returns how many. `UsageError` as `release`."""
        taken = self._take(n, "lose")
        self._lose(taken)
        return len(taken)

    def _take(self, n: int | None, verb: str) -> list[GateEvent]:
        if self._is_open:
            self._board.read()
        there = len(self._held)
        if n is not None and not 0 <= n <= there:
            what = f"{verb} {n} segments of {self.words}"
            raise UsageError(what, f"it holds {there}", "await them first: seen(n)")
        taken = self._held[:n]
        del self._held[:n]
        return taken

    def _lose(self, events: list[GateEvent]) -> None:
        for event in events:
            self._matched(event, LOST, time.monotonic_ns(), event.number)

    def _send_again(self, events: list[GateEvent]) -> None:
        """What a host sent that is gone meanwhile, or was sent to one, is lost."""
        __tracebackhide__ = True
        gone = [event for event in events if self._is_gone(event)]
        self._lose(gone)
        there = [event for event in events if event not in gone]
        if there:
            with ExitStack() as stack:
                socks = {host: _packet_socket(host, stack) for host in map(self._sender, there)}
                self._board.send(self, there, lambda event: self._send(socks, event))

    def _send(self, socks: Mapping[Host, socket.socket], event: GateEvent) -> None:
        direction = self._direction(event)
        send_again(socks[direction.sender], direction.end, event.frame, event.gso_size)

    def _sender(self, event: GateEvent) -> Host:
        return self._direction(event).sender

    def _is_gone(self, event: GateEvent) -> bool:
        direction = self._direction(event)
        return direction.sender.is_gone or direction.to.is_gone

    def at_rest(self) -> None:
        """What came since the end of the block was begun arrives too."""
        self._send_again(self._take(None, "release"))

    def passed_on(self, event: GateEvent) -> None:
        """It has arrived."""
        self._matched(event, event.action.verb, event.time_ns, event.number)

    def pending(self) -> list[str]:
        """A segment that is held is under way."""
        by_number = {match.number: match for match in self._matches}
        return [f"released or lost: {by_number[event.number]}" for event in self._held]


def _packet_socket(host: Host, stack: ExitStack) -> socket.socket:
    """Not kept: it would keep the namespace of a host that is closed."""
    sock = host.socket(socket.AF_PACKET, socket.SOCK_RAW)
    acquired("packet socket", sock.fileno())
    stack.callback(host.namespace.let_go, sock)
    return prepared(sock)


def _offload_again(host: Host, name: str) -> None:
    if not host.is_gone:
        with host.socket() as sock:
            offload_checksums(sock, name, True)
