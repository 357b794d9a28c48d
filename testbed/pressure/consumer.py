"""Who reads the rings of a set under pressure, or stalls."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from testbed.closing import Closing
from testbed.errors import WaitExpired
from testbed.kmesh.layouts import Layout
from testbed.kmesh.profile import Role
from testbed.lab.wait import eventually
from testbed.pressure.rings import BatchRing
from testbed.pressure.subject import Pressed
from testbed.pressure.tally import OF_CLIENT, OF_SERVER, Authorizer, Complaints, Connections

RINGS: tuple[Role, ...] = ("auth_requests", "observe", "log", "access_log")
EVERY_S = 0.0005  # 85 requests are in the ring after 2 ms, at 40,000 connections a second
_LOG_RECORD = 260
_LAST_DEADLINE_S = 0.2


class Consumer(Closing):
    """Reads every ring that the set has, except those that are ``stalled``, and adds up what comes."""

    def __init__(self, pressed: Pressed, stalled: frozenset[str], verdicts: bool) -> None:
        profile, maps = pressed.profile, pressed.program_set.maps
        records = profile.records
        self.rings: dict[str, BatchRing] = {}
        self.complaints = Complaints()
        self.stalled = stalled
        layouts = {
            role: Layout.of(spec, profile.about, pressed.program_set.debug_structs(records.structs))
            for role, spec in (
                ("auth_requests", records.auth_request),
                ("observe", records.observe),
                ("access_log", records.access_log),
            )
            if spec is not None
        }
        named = {role: profile.map_name(role) for role in (*RINGS, "auth_results")}
        results = named["auth_results"]
        self.authorizer = Authorizer(
            layouts["auth_requests"],
            maps.get(results) if results and verdicts else None,
            profile.ports.observe,
            profile.ports.auth,
        )
        self.connections: Connections | None = None
        self._observe = layouts.get("observe")
        with ExitStack() as stack:
            for role in RINGS:
                name = named[role]
                if name is not None and name in maps and (role in layouts or role == "log"):
                    size = layouts[role].size if role in layouts else _LOG_RECORD
                    self.rings[role] = stack.enter_context(BatchRing(maps[name], size))
            self._undo = stack.pop_all()

    def begin(self, client_managed: bool, server_managed: bool) -> None:
        """From now on connections are expected, of hosts that are managed or not."""
        whole = OF_CLIENT * client_managed | OF_SERVER * server_managed
        if self._observe is not None and "observe" in self.rings:
            closed = self.authorizer.closed if "last_report_ns" in self._observe.fields else None
            keep = self.rings["observe"].capacity if "observe" in self.stalled else 0
            self.connections = Connections(self._observe, whole, closed, keep)

    def read(self) -> None:
        """Takes what is in the rings; the shortest one first, and in between."""
        for role, ring in self.rings.items():
            if role not in self.stalled:
                for batch in ring.read():
                    self._take(role, batch)
                    if role != "auth_requests" and "auth_requests" not in self.stalled:
                        self._take_requests()

    def _take_requests(self) -> None:
        if "auth_requests" in self.rings:
            for batch in self.rings["auth_requests"].read():
                self.authorizer.take(batch)

    def _take(self, role: str, batch: list[bytes]) -> None:
        if role == "auth_requests":
            self.authorizer.take(batch)
        elif role == "observe" and self.connections is not None:
            self.connections.take(batch)
        elif role == "log":
            self.complaints.take(batch)

    def finish(self, expected: Mapping[str, int]) -> None:
        """Reads to the end, stalled rings too, once every connection has ended.

        A socket is unhashed an instant before its callback to CLOSE: what is expected may be on its
        way still, where its ring has room.
        """

        def complete() -> bool:
            self.read()
            return all(
                self.rings[role].produced >= count or self.rings[role].is_full
                for role, count in expected.items()
            )

        with suppress(WaitExpired):  # then they are lost
            eventually(complete, awaited="every record that is expected", deadline=_LAST_DEADLINE_S)
        self.stalled = frozenset()
        self.read()

    def close(self) -> None:
        self._undo.close()


@contextmanager
def promptly() -> Iterator[None]:
    """This process runs whenever it wants to, before any other (SCHED_FIFO, sched(7)).

    Else the workers keep it waiting for milliseconds, where it may not be: as it then runs as others do.
    """
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, parameters)
