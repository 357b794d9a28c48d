"""The pressure run: two labs side by side, one with the program and one without, in turn."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType

from testbed.bpf.kinds import ProgramKind, map_type_name
from testbed.errors import TestbedError, UsageError, WaitExpired
from testbed.kmesh.abi import Absent, Direction
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.records import Storage as StorageValue
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.pressure import maps as map_facts
from testbed.pressure.consumer import EVERY_S, RINGS, Consumer, promptly
from testbed.pressure.driver import Slice, Storage, Workers
from testbed.pressure.maps import Strangers
from testbed.pressure.result import MapResult, Request, Result, RingResult, Verdicts
from testbed.pressure.subject import Pressed
from testbed.topology.load import load_topology

Progress = Callable[[int], None]
_SLICE = 2500  # connections, at most, unless more are to be open at a time
_PORTS = 4096  # clients of which the port is asked, to see which records came first
_SLICES = 10  # at least, of each kind, where there are connections enough


def slices_of(connections: int, concurrency: int) -> list[int]:
    """How many connections each slice has: many short ones, so that both kinds meet the same machine."""
    size = max(min(_SLICE, connections // _SLICES), 2 * concurrency, 1)
    whole, rest = divmod(connections, size)
    return [size] * whole + [rest] * bool(rest)


@contextmanager
def _told_to_stop() -> Iterator[list[bool]]:
    """What is yielded is not empty once Ctrl-C was pressed. The second one interrupts as usual."""
    told: list[bool] = []

    def note(_number: int, _frame: FrameType | None) -> None:
        told.append(True)
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, note)
    try:
        yield told
    finally:
        signal.signal(signal.SIGINT, before)


class _Run:
    """One run, from its labs to its result."""

    def __init__(self, pressed: Pressed, request: Request, stack: ExitStack) -> None:
        self.pressed = pressed
        self.request = request
        self.maps = pressed.program_set.maps
        for name in request.full:
            map_facts.find(self.maps, name, f"fill the map {name}")
        bench = stack.enter_context(Bench())
        topology = load_topology("pair")
        self.empty = stack.enter_context(Lab(bench, topology))
        self.lab = stack.enter_context(Lab(bench, topology))
        self.mesh = stack.enter_context(Mesh(pressed.program_set, self.lab, pressed.profile))
        self.workers = {
            False: stack.enter_context(Workers(self.empty, request.family, request.concurrency)),
            True: stack.enter_context(
                Workers(self.lab, request.family, request.concurrency, self._storage())
            ),
        }
        self.strangers: dict[str, Strangers] = {
            name: map_facts.fill(self.maps[name], self.empty["client"], stack) for name in request.full
        }
        self.consumer = stack.enter_context(Consumer(pressed, request.stalled, request.verdicts))
        self._resident = map_facts.resident()
        self._entries, self._memory = map_facts.entries(self.maps), self._memlock()
        self._managed = self._managed_entries()
        self.managed = self._enrol()
        self.consumer.begin(*self.managed)
        self.slices: dict[bool, list[Slice]] = {True: [], False: []}
        for workers in self.workers.values():
            workers.begin()

    def _memlock(self) -> dict[str, int]:
        return {name: map_facts.memlock(each) for name, each in self.maps.items()}

    def _managed_entries(self) -> int:
        name = self.pressed.profile.map_name("managed")
        return self._entries.get(name or "", 0)

    @property
    def _family(self) -> Family:
        return Family.V6 if self.request.family is Family.V6 else Family.V4

    def _enrol(self) -> tuple[bool, bool]:
        """Enrols both hosts by the control address, as nodes do. Returns which of them are managed."""
        hosts = self.lab["client"], self.lab["server"]
        for host in hosts:
            self.mesh.enrol(host, self._family)
        managed = [host.address(self._family.version) in self.mesh.managed for host in hosts]
        if not self.pressed.is_reference:  # connect hooks of others may go by the namespace
            self._set_cookies(True)
        return managed[0], managed[1]

    def _set_cookies(self, on: bool) -> None:
        for host in (self.lab["client"], self.lab["server"]):
            if self.pressed.profile.managed.cookies and host.netns_cookie is not None:
                try:
                    self.mesh.managed.set_cookie(host.netns_cookie, on)
                except OSError:  # E2BIG: as full as it was asked to be
                    if not self.request.is_limited:
                        raise

    def _storage(self) -> Storage | None:
        """What a client's socket needs before its connect(): by the kernel's own bytes of such a one."""
        kind = ProgramKind.CONNECT6 if self.request.family.client.name == "AF_INET6" else ProgramKind.CONNECT4
        profile = self.pressed.profile
        each = self.maps.get(profile.map_name("storage") or "")
        if each is None or (self.mesh.has(kind) and not self.request.waypoint):
            if self.request.waypoint:
                raise UsageError("go by a waypoint", "the set has no storage of sockets")
            return None
        fields = self.mesh.storage.fields
        where = (self.lab["server"].address(self._family.version), 0)
        with self.lab["client"].socket(self.request.family.client) as sock:
            try:
                self.mesh.storage[sock] = StorageValue(
                    connect_ns=time.monotonic_ns(),
                    direction=Direction.OUTBOUND,
                    via_waypoint=self.request.waypoint,
                    asked_for=where if "asked_for" in fields else None,
                )
            except Absent as error:
                raise UsageError("go by a waypoint", str(error)) from error
            value = each.get(sock.fileno().to_bytes(4, "little"))
        assert value is not None
        spec = profile.records.storage
        port_at = -1
        if spec is not None and "asked_for" in spec.fields:
            port_at = spec.fields["asked_for"][0] + (10 if self._family is Family.V4 else 34)
        return Storage(each.fd, value, port_at)

    def one_slice(self, count: int, with_program: bool) -> None:
        """Makes connections, through the program or not; returns when all of them have ended.

        So each slice finds the same machine, and the rings have records in the order of the slices.
        """
        workers = self.workers[with_program]
        ports = _PORTS if with_program and not self.slices[True] else 0
        if not with_program or self.request.stalled >= set(self.consumer.rings):
            made = workers.run(count, ports=ports)
        else:
            with promptly():
                made = workers.run(count, self.consumer.read, EVERY_S, ports)
        self.slices[with_program].append(made)
        try:
            workers.settle()
        except WaitExpired as error:
            raise TestbedError("wait for the connections to end", str(error)) from error

    def finish(self, seconds: float, interrupted: bool) -> Result:
        """Every connection has ended: reads the rest, and looks at what is left."""
        opened = sum(each.opened for each in self.slices[True])
        accepted = sum(each.accepted for each in self.slices[True])
        client, server = self.managed
        expected = {
            "observe": 2 * opened * client + 2 * accepted * server,
            "auth_requests": accepted * server,
        }
        expected = {role: count for role, count in expected.items() if role in self.consumer.rings}
        stalled = self.consumer.stalled
        self.consumer.finish(expected)
        kernel = self.workers[True].kernel_counts()
        verdicts = self._verdicts()
        sockhash = self._left("sockhash", 0)
        self._remove()
        connections, authorizer = self.consumer.connections, self.consumer.authorizer
        return Result(
            request=self.request,
            origin=self.pressed.program_set.origin,
            seconds=seconds,
            with_program=tuple(self.slices[True]),
            without=tuple(self.slices[False]),
            client_managed=client,
            server_managed=server,
            rings=tuple(self._rings(expected, stalled)),
            maps=tuple(self._maps()),
            whole=connections.whole if connections else None,
            unfinished=len(connections.unfinished) if connections else 0,
            repeated=connections.repeated if connections else 0,
            malformed=authorizer.malformed + (connections.malformed if connections else 0),
            first_records=tuple(connections.first) if connections else (),
            first_ports=self.slices[True][0].ports if self.slices[True] else (),
            verdicts=verdicts,
            managed_left=self._left("managed", self._managed),
            sockhash_left=sockhash,
            complaints=dict(self.consumer.complaints.counts),
            kernel=kernel,
            resident_before=self._resident,
            resident_after=map_facts.resident(),
            interrupted=interrupted,
        )

    def _remove(self) -> None:
        """Removes both hosts by the control address."""
        for host in (self.lab["client"], self.lab["server"]):
            self.mesh.remove(host, self._family)
        if not self.pressed.is_reference:
            self._set_cookies(False)

    def _left(self, role: str, before: int) -> int:
        """Entries of a role's map that were not there before, strangers aside."""
        name = self.pressed.profile.map_name("managed" if role == "managed" else "sockhash")
        found = self.maps.get(name or "")
        if found is None:
            return 0
        strangers = set(self.strangers[found.name].keys) if found.name in self.strangers else set()
        return sum(1 for key in found if key not in strangers) - max(before - len(strangers), 0)

    def _verdicts(self) -> Verdicts:
        authorizer = self.consumer.authorizer
        found = self.maps.get(self.pressed.profile.map_name("auth_results") or "")
        strangers = set(self.strangers[found.name].keys) if found and found.name in self.strangers else set()
        left = [key for key in found if key not in strangers] if found is not None else []
        return Verdicts(
            authorizer.written,
            dict(authorizer.refused),
            len(left),
            sum(key in authorizer.late for key in left),
            sum(authorizer.untold(key) for key in left),
        )

    def _rings(self, expected: Mapping[str, int], stalled: frozenset[str]) -> Iterator[RingResult]:
        lost = 0
        for role in RINGS:
            ring = self.consumer.rings.get(role)
            if ring is None:
                continue
            count = expected.get(role)
            if role == "auth_requests":
                lost = (count or 0) - ring.received
            if role == "log":
                count = self._expected_log(lost)
            asked = role in stalled or ring.name in self.request.max_entries
            yield RingResult(
                role, ring.name, count, ring.produced, ring.received, ring.capacity, role in stalled, asked
            )

    def _expected_log(self, lost_requests: int) -> int | None:
        """The reference logs each request that it lost and each host that it could not enrol; and
        each socket that the sockhash had no room for, of which nobody else can tell how many.
        """
        if not self.pressed.is_reference:
            return None if self.request.is_limited or lost_requests else 0
        if self.request.waypoint and self.request.is_limited:
            return None
        return lost_requests + 2 - sum(self.managed)

    def _maps(self) -> Iterator[MapResult]:
        after, memory = map_facts.entries(self.maps), self._memlock()
        for name, each in self.maps.items():
            strangers = self.strangers.get(name)
            yield MapResult(
                name,
                map_type_name(each.type),
                each.max_entries,
                self._entries.get(name),
                after.get(name),
                self._memory[name],
                memory[name],
                len(strangers.keys) if strangers else 0,
                strangers.left() if strangers else 0,
            )


def run_pressure(pressed: Pressed, request: Request, progress: Progress | None = None) -> Result:
    """Puts a set under pressure. ``progress`` is told how many connections more have been made.

    Ctrl-C ends it after the slice that is under way, with what was measured until then.
    """
    with ExitStack() as stack:
        run = _Run(pressed, request, stack)
        told = stack.enter_context(_told_to_stop())
        start = time.monotonic()
        for number, count in zip(itertools.count(), slices_of(request.connections, request.concurrency)):
            for with_program in (bool(number % 2), not number % 2):
                run.one_slice(count, with_program)
                if progress is not None:
                    progress(count)
            if told:
                break
        return run.finish(time.monotonic() - start, bool(told))
