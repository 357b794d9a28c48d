"""A link between two hosts, and the gates on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TypedDict, Unpack

from testbed.bpf.attach import prepare
from testbed.closing import Closing
from testbed.errors import UsageError
from testbed.gates.gate import Gate, HoldGate, Order
from testbed.gates.kinds import Any, SegmentKind
from testbed.gates.matched import Action, Matched
from testbed.gates.program import Direction, GateProgram
from testbed.lab.chronicle import Note
from testbed.lab.lab import Lab


class Which(TypedDict, total=False):
    """Which segments of a kind: see `Link`."""

    nth: int | None
    sender: str | None
    to: str | None
    port: int | None


class Link(Closing):
    """Gates are set by `hold`, `drop`, `duplicate`, `corrupt` and `let_pass`; each ends with its block.

    Of several that want a segment the one that was set last has it, and it alone counts it. ``log``
    is what all gates of this link did, in the order in which it was told.

    Each takes a kind of segments, and: ``nth``, the only one of them that is meant, counted from 1
    from when the gate was set; ``sender`` or ``to``, a host, where only that direction is meant;
    ``port``, of either end.
    """

    def __init__(self, lab: Lab, program: GateProgram, one: str = "", other: str = "") -> None:
        """The link of two neighbours, or the lab's first. `UsageError` when there is none.

        What is under way on it just then may be lost: make it before the traffic. Its gates come and go
        amid traffic, and of that nothing is lost but what they are to lose.
        """
        self.log: list[Matched] = []
        self._lab = lab
        self._program = program
        self._directions = _directions(lab, one, other)
        self._undo = ExitStack()
        for each in self._directions:
            prepare(each.arrival)
        lab.chronicles.append(self)

    def __repr__(self) -> str:
        return f"<Link {' – '.join(each.sender.name for each in self._directions)}>"

    def between(self, one: str, other: str) -> Link:
        """Another link of the same lab; it is closed with this one."""
        return self._undo.enter_context(Link(self._lab, self._program, one, other))

    def let_pass(self, kind: SegmentKind = Any, **which: Unpack[Which]) -> Gate:
        """Segments pass, and are counted; also what a gate that was set before would not let pass."""
        return self._gate(self._order("let_pass", Action.PASS, kind, which))

    def drop(self, kind: SegmentKind = Any, **which: Unpack[Which]) -> Gate:
        """Segments do not arrive."""
        return self._gate(self._order("drop", Action.DROP, kind, which))

    def duplicate(self, kind: SegmentKind = Any, **which: Unpack[Which]) -> Gate:
        """Segments arrive twice, one copy right behind the other."""
        return self._gate(self._order("duplicate", Action.DUPLICATE, kind, which))

    def corrupt(self, kind: SegmentKind = Any, **which: Unpack[Which]) -> Gate:
        """Segments arrive with a checksum that is wrong: the receiving TCP counts them, and drops them.

        The last byte of the payload is inverted, or bits of the checksum where there is no payload.
        Meanwhile the sender's kernel fills in checksums itself, so that its segments are of the MTU.
        """
        return self._gate(self._order("corrupt", Action.CORRUPT, kind, which))

    def hold(self, kind: SegmentKind = Any, **which: Unpack[Which]) -> HoldGate:
        """Segments arrive when they are released, at the latest at the end of the block."""
        order = self._order("hold", Action.HOLD, kind, which)
        return self._undo.enter_context(HoldGate(self._program.board(self._lab), order, self.log))

    def _gate(self, order: Order) -> Gate:
        return self._undo.enter_context(Gate(self._program.board(self._lab), order, self.log))

    def _order(self, word: str, action: Action, kind: SegmentKind, which: Which) -> Order:
        given = [f"{name}={value}" for name, value in which.items() if value is not None]
        what = f"set {word}({', '.join([kind.name, *given])})"
        nth, port = which.get("nth"), which.get("port")
        sender, to = which.get("sender"), which.get("to")
        for name in (sender, to):
            if name is not None and name not in {each.sender.name for each in self._directions}:
                raise UsageError(what, f"{name} is no end of {self!r}")
        if nth is not None and nth < 1:
            raise UsageError(what, "the first one is nth=1")
        if port is not None and not 0 < port < 65536:
            raise UsageError(what, "that is no port")
        directions = tuple(
            each
            for each in self._directions
            if sender in {None, each.sender.name} and to in {None, each.to.name}
        )
        if not directions:
            raise UsageError(what, "nobody sends to itself by a link")
        return Order(what.removeprefix("set "), kind, action, nth, port, directions)

    def notes(self) -> Iterator[Note]:
        """What its gates did, for a story."""
        for each in self.log:
            yield Note(each.time_ns, "gate", each.words, each.sender, each.to, connection=each.tuple)

    def close(self) -> None:
        """Ends its gates. What they did stays in ``log``."""
        self._undo.close()


def _directions(lab: Lab, one: str, other: str) -> tuple[Direction, Direction]:
    for wire in lab.wiring.wires:
        if not one or {wire.host, wire.peer_host} == {one, other}:
            host, peer = lab[wire.host], lab[wire.peer_host]
            there = Direction(host, wire.end, peer, wire.peer)
            back = Direction(peer, wire.peer, host, wire.end)
            return (there, back) if one in {"", host.name} else (back, there)
    what = f"find the link of {one} and {other}" if one else "find a link"
    raise UsageError(what, "no link joins them" if one else "the lab has none")
