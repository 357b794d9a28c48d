"""What user space does beside the connections: it manages hosts, reads records, writes verdicts."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from typing import Any, Protocol

from testbed.bpf.kinds import ProgramKind
from testbed.cost.contender import Contender
from testbed.errors import UsageError, errno_name
from testbed.kmesh.abi import Absent, Verdict
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.records import MalformedRecord
from testbed.kmesh.views import Stream
from testbed.lab.attached import Attached
from testbed.lab.family import Family
from testbed.lab.lab import Lab

WAYPOINT_EVERY = 4  # connections
_STREAMS = ("observed", "log", "access_log")


class Play(Protocol):
    """Of one set at work in a lab."""

    notes: dict[str, None]
    """What did not go as it should, in words, each once."""

    def begin(self) -> None:
        """Ahead of a batch of connections."""

    def prepare(self, sock: socket.socket, number: int) -> None:
        """Of each client's socket, before it connects."""

    def between(self) -> None:
        """While all connections of a batch are open, and behind it. No ring is full until then."""


class Nobody:
    """Where no program is."""

    def __init__(self) -> None:
        self.notes: dict[str, None] = {}

    def begin(self) -> None:
        """Nothing to do."""

    def prepare(self, sock: socket.socket, number: int) -> None:
        """Nothing to do."""

    def between(self) -> None:
        """Nothing to do."""


class Plain(Nobody):
    """Of programs without a contract: their rings are emptied."""

    def __init__(self, attached: Attached) -> None:
        super().__init__()
        self._rings = [each.reader for each in attached.programs.rings.values()]

    def between(self) -> None:
        for ring in self._rings:
            ring.take()


class Contract(Nobody):
    """Of a set that keeps the contract: every way through it is taken.

    Both hosts are managed; each is enrolled anew ahead of a batch. Of every fourth connection the
    client goes by a waypoint, where the set can, and each connection gets its verdict: allowed.
    """

    def __init__(self, mesh: Mesh, family: Family) -> None:
        super().__init__()
        self._mesh = mesh
        self._family = Family.V6 if family is Family.V6 else Family.V4
        self._client = mesh.lab["client"]
        self._address = mesh.lab["server"].address(family.version)
        self._streams: list[Stream[Any]] = []
        for name in _STREAMS:
            with suppress(Absent):
                self._streams.append(getattr(mesh, name))
        self._judges = True
        mesh.manage(*mesh.lab.hosts.values())
        self._has_waypoint = self._goes_by_waypoint(family)

    def _goes_by_waypoint(self, family: Family) -> bool:
        if not self._mesh.has(ProgramKind.SK_MSG):
            return False
        with suppress(Absent), self._client.socket(family.client) as sock:
            self._mesh.via_waypoint(sock)
            return True
        return False

    def begin(self) -> None:
        for host in self._mesh.lab.hosts.values():
            self._mesh.enrol(host, self._family)

    def prepare(self, sock: socket.socket, number: int) -> None:
        if self._has_waypoint and number % WAYPOINT_EVERY == 0:
            self._mesh.via_waypoint(sock)
        for hook in self._client.before_connect:
            hook(sock, self._address, 0)

    def between(self) -> None:
        self._judge()
        for stream in self._streams:
            stream.drop()

    def _judge(self) -> None:
        if not self._judges:
            return
        try:
            for request in self._mesh.auth_requests.take():
                self._mesh.verdicts[request.tuple] = Verdict.ALLOW
        except OSError as error:
            self._no_more(errno_name(error.errno or 0))
        except (Absent, MalformedRecord) as error:
            self._no_more(str(error))

    def _no_more(self, why: str) -> None:
        self._judges = False
        self.notes[f"no verdict is written: {why}"] = None


def put_to_work(contender: Contender, lab: Lab, family: Family, stack: ExitStack) -> Play:
    """Attaches a set to a lab, until ``stack`` closes.

    `UsageError` where its era lacks the family, or the set what is needed of an era that was asked for.
    """
    if contender.profile is None:
        return Plain(stack.enter_context(Attached(contender.program_set, lab)))
    if family is Family.V6 and "ipv6" in contender.profile.lacks:
        why = f"{contender.profile.about}: {contender.profile.lacks['ipv6']}"
        raise UsageError(f"measure {contender.spec.text} in {family.value}", why)
    mesh = stack.enter_context(Mesh(contender.program_set, lab, contender.profile))
    try:
        return Contract(mesh, family)
    except Absent as error:  # it was recognised by this, so the era is a person's own choice
        what = f"measure {contender.spec.text} as {contender.profile.about}"
        raise UsageError(what, str(error), "another --abi, or none: the era is recognised") from error
