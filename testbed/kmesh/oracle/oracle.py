"""After a scenario: three witnesses compared for each of its connections.

What the test did (its sockets, and what it wrote: the ledger), what the kernel says (the tap's
callbacks with the counters of struct tcp_sock, and sock_diag), and what the program reported and left.
They are joined by the socket's cookie, and by the connection's tuple where a record has no cookie.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from testbed.bpf.kinds import ProgramKind
from testbed.kernel.sockdiag import TcpSocket
from testbed.kmesh.abi import Absent
from testbed.kmesh.oracle import compare
from testbed.kmesh.oracle.compare import Violation
from testbed.kmesh.oracle.ledger import Connecting, Entry
from testbed.kmesh.oracle.model import Model, Rules, local_to_remote
from testbed.lab.family import ConnTuple
from testbed.lab.redirect import Redirect, Redirected
from testbed.lab.wait import DEADLINE_S
from testbed.observe.callbacks import Callback, Op
from testbed.observe.tap import Tap

if TYPE_CHECKING:
    from testbed.kmesh.mesh import Mesh

# How long before the tap a program may have read what user space changed meanwhile. No longer than
# user space needs from a change to the next call, or what is caused by that call would come before it.
_A_CALLBACK_NS = 5_000


class ContractViolation(AssertionError):
    """The program did not keep the contract. Every violation is told, field by field.

    ``told`` is that without the callbacks, for who tells the whole story instead.
    """

    def __init__(self, violations: Sequence[Violation], story: str = "") -> None:
        self.violations = tuple(violations)
        self.kinds = tuple(dict.fromkeys(kind for each in violations for kind in each.kinds))
        heading = "the contract was not kept" + (f", {len(violations)} times" if len(violations) > 1 else "")
        self.told = "\n".join([f"{heading}:", *map(str, violations)])
        super().__init__("\n".join([self.told, *filter(None, [story])]))


class Oracle:
    """Judges everything that has happened in a lab since the program set was attached to it."""

    def __init__(self, mesh: Mesh, tap: Tap) -> None:
        self._mesh = mesh
        self._tap = tap
        self._rules = rules(mesh)
        self._excused: set[str] = set()

    def excuse(self, kind: str) -> None:
        """Violations of that kind are what the test has brought about: a full map, for example."""
        self._excused.add(kind)

    def check(self) -> None:
        """Waits until the lab is at rest, then compares. `ContractViolation` tells every difference.

        A process on a host may go on while it is compared: what was found then is nothing to go by.
        """
        before, end = None, time.monotonic() + DEADLINE_S
        while (world := self._world()) != before and (before is None or time.monotonic() < end):
            before = world
            if not (found := self.violations(world[1])):
                return
        concerned = {each.connection for each in found if each.connection is not None}
        raise ContractViolation(found, self._tap.story(lambda each: _is_of(each, concerned)))

    def _world(self) -> tuple[int, list[TcpSocket]]:
        """How many callbacks there have been, and the TCP sockets, at rest."""
        there = self._mesh.lab.settle()
        return len(self._tap), there

    def violations(self, there: Sequence[TcpSocket] | None = None) -> list[Violation]:
        """What is not as the contract says, now; ``there`` are the lab's TCP sockets, if they are known.

        A change by user space that fell into a callback may have been seen by the program or not:
        either is in order.
        """
        mine = [each for each in self._tap if each.time_ns >= self._mesh.since_ns]
        if there is None:
            there = [sock for host in self._mesh.lab.hosts.values() for sock in host.tcp_sockets()]
        first = self._compare(self.replay(mine, "done"), there)
        first = [each for each in first if not self._excused.issuperset(each.kinds)]
        if not first:
            return first
        for order in ("begun", "seen late"):
            if not self._compare(self.replay(mine, order), there):
                return []
        return first

    def replay(self, callbacks: Sequence[Callback], order: str = "done") -> Model:
        """The model, fed with the callbacks and the ledger; an entry counts from when it was ``order``."""
        model = Model(self._rules)
        late = _A_CALLBACK_NS if order == "seen late" else 0
        happened: list[tuple[int, int, Entry | Callback | Redirect]] = [
            (entry.begun_ns if order == "begun" or _is_first(entry) else entry.done_ns + late, number, entry)
            for number, entry in enumerate(self._mesh.ledger.entries)
        ]
        happened += [(each.time_ns, number, each) for number, each in enumerate(callbacks)]
        happened += [(each.time_ns, number, each) for number, each in enumerate(self._redirects())]
        for _, _, what in sorted(happened, key=lambda one: one[:2]):
            if isinstance(what, Entry):
                model.act(what.action, what.begun_ns)
            elif isinstance(what, Redirect):
                model.redirect(what)
            else:
                model.callback(what)
        return model

    def _redirects(self) -> Iterator[Redirect]:
        for witness in self._mesh.lab.chronicles:
            if isinstance(witness, Redirected):
                yield from witness

    def _compare(self, model: Model, there: Sequence[TcpSocket]) -> list[Violation]:
        mesh = self._mesh
        found = [*compare.flags(model.watched), *_gone(model, there)]
        with suppress(Absent):
            found += compare.records(model.records, mesh.observed.everything)
        with suppress(Absent):
            found += compare.requests(model.requests, mesh.auth_requests.everything)
        with suppress(Absent):
            found += compare.managed(model, mesh.managed)
        with suppress(Absent):
            found += compare.verdicts(model, mesh.verdicts)
        held = {sock.cookie for sock in there if sock.inode}
        if self._rules.storage:
            with suppress(Absent):
                seen = mesh.storage.of_sockets(mesh.lab, held) if held else {}
                found += compare.storages(model, held, seen, mesh.storage.fields)
        if self._rules.waypoint:
            with suppress(Absent):
                wanted = {of for cookie, of in model.sockhash.items() if cookie in held}
                found += compare.sockhash(wanted, model.unsure_sockhash, mesh.sockhash)
        return found


def _gone(model: Model, there: Sequence[TcpSocket]) -> Iterator[Violation]:
    """A socket that is gone has been called back to CLOSE where the program had to watch it."""
    present = {sock.cookie for sock in there if sock.is_whole}
    for cookie, callback in model.open.items():
        if cookie not in present:
            words = f"gone, and never called back to CLOSE: {callback}"
            yield Violation("close", None, words, ("close: not seen",))


def _is_first(entry: Entry) -> bool:
    """Noted before what it is about is begun."""
    return isinstance(entry.action, Connecting)


def _is_of(each: Callback, connections: set[ConnTuple]) -> bool:
    """Whether a callback is of one of the connections; of all where there are none."""
    own = local_to_remote(each)
    return not connections or each.op is Op.TCP_LISTEN or own in connections or own.reversed in connections


def rules(mesh: Mesh) -> Rules:
    """What of the contract holds for the set at work: by its era, and by the hooks that it has."""
    lacks = mesh.profile.lacks
    hooks = ((ProgramKind.CONNECT4, socket.AF_INET), (ProgramKind.CONNECT6, socket.AF_INET6))
    return Rules(
        control=mesh.profile.control,
        stores=frozenset(int(family) for kind, family in hooks if mesh.has(kind)),
        presence=mesh.profile.managed.by == "presence",
        exempts="node_ip" not in lacks and "pod_gateway" not in lacks,
        storage="storage" not in lacks,
        waypoint="waypoint" not in lacks,
    )
