"""The program set attached to a lab, and everything it says by role."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

from testbed.bpf.attach import attach
from testbed.bpf.kinds import ProgramKind, Target
from testbed.bpf.maps import Map
from testbed.bpf.program_set import ProgramSet
from testbed.closing import Closing
from testbed.errors import UsageError
from testbed.kernel.sockdiag import socket_cookie
from testbed.kmesh.abi import Absent, Direction, Verdict
from testbed.kmesh.config import Config
from testbed.kmesh.log_event import LogEvent
from testbed.kmesh.oracle.ledger import Connecting, Ledger
from testbed.kmesh.profile import Profile, Role, load_profile
from testbed.kmesh.records import AccessRecord, AuthRequest, ObserveRecord, Storage, waypoint_metadata
from testbed.kmesh.roles import Roles
from testbed.kmesh.routes import fill_routes
from testbed.kmesh.views import ManagedSet, SockhashKeys, StorageMap, Stream, VerdictMap
from testbed.lab.family import Address, ConnTuple, Family
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.lab.strangers import need_no_strangers
from testbed.lab.wait import DEADLINE_S, Awaited

T = TypeVar("T")
_ROLES: dict[str, Role] = {
    "managed": "managed",
    "verdicts": "auth_results",
    "storage": "storage",
    "sockhash": "sockhash",
    "observed": "observe",
    "auth_requests": "auth_requests",
    "log": "log",
    "access_log": "access_log",
}


class Mesh(Closing):
    """The program set at work in a lab, its state empty to begin with.

    ``managed`` is a set of addresses, ``verdicts`` a mapping of connections, ``storage`` is indexed
    by sockets, ``sockhash`` is a set of tuples (local to remote), ``observed``, ``auth_requests``
    and ``log`` are streams of records (``access_log`` in v0.4.0), ``config`` has the program's
    settings. `Absent` says so where the era (``profile``) or the set does not have one of these.
    ``ledger`` is what user space did through all of them.
    """

    managed: ManagedSet
    verdicts: VerdictMap
    storage: StorageMap
    sockhash: SockhashKeys
    observed: Stream[ObserveRecord]
    auth_requests: Stream[AuthRequest]
    log: Stream[LogEvent]
    access_log: Stream[AccessRecord]

    def __init__(
        self, program_set: ProgramSet, lab: Lab, profile: Profile | None = None, *, at: Host | None = None
    ) -> None:
        """``at`` is the only host that they are attached at, by default they are at the whole lab."""
        if program_set.in_use:
            raise UsageError(
                f"attach {program_set.origin}",
                "it is at work in another lab, and its maps are one lab's at a time",
                "close that lab's mesh first, or load the set once more",
            )
        self.lab = lab
        self.at = at
        self.profile = profile or load_profile("main")
        self.programs = program_set
        self.ledger = Ledger()
        self._judged = 0
        need_no_strangers(f"attach {program_set.origin}", lab)
        with ExitStack() as stack:
            program_set.in_use = True
            stack.callback(setattr, program_set, "in_use", False)
            for host in lab.hosts.values():
                host.before_connect.append(self._note_connect)
                stack.callback(host.before_connect.remove, self._note_connect)
            self._roles = Roles(program_set, self.profile, self.ledger, stack)
            self._set_collections()
            self.config = Config(
                self.profile, program_set.variables, self._roles.map_of("config"), self.ledger
            )
            self._reset()
            self.since_ns = time.monotonic_ns()
            self._attach(stack)
            self._undo = stack.pop_all()

    def __repr__(self) -> str:
        shown = []
        for name in ("managed", "verdicts", "sockhash", "observed", "auth_requests", "log"):
            with suppress(Absent):
                shown.append(f"{name}={getattr(self, name)!r}")
        return f"<Mesh {' '.join(shown)}>"

    def _attach(self, stack: ExitStack) -> None:
        """Programs of interfaces are left to the test: which host's is its choice."""
        for program in self.programs.programs.values():
            if program.kind is None or program.kind.target is Target.INTERFACE:
                continue
            if program.kind.target is Target.CGROUP:
                attach(program, self.lab.cgroup_fd if self.at is None else self.at.cgroup_fd, stack)
            elif (sockhash := self._roles.map_of("sockhash")) is not None:
                attach(program, sockhash.fd, stack)
        if self._roles.map_of("storage") is not None:
            for host in self.lab.hosts.values():
                host.before_connect.append(self._before_connect)
                stack.callback(host.before_connect.remove, self._before_connect)

    def map_of(self, role: Role) -> Map | None:
        """The map of a role as bytes, None where the era or the set has none."""
        return self._roles.map_of(role)

    def has(self, kind: ProgramKind) -> bool:
        """Whether the set has a program of that kind."""
        return bool(self.programs.of_kind(kind))

    def _note_connect(self, sock: socket.socket, address: Address, port: int) -> None:
        with self.ledger.entry(Connecting(socket_cookie(sock), (address, port))):
            pass

    def _before_connect(self, sock: socket.socket, address: Address, port: int) -> None:
        """Where the set has no connect hook, the test makes the client's storage in its place."""
        hook = ProgramKind.CONNECT6 if sock.family == socket.AF_INET6 else ProgramKind.CONNECT4
        if self.has(hook) or sock.type != socket.SOCK_STREAM:
            return
        before = self.storage[sock] if sock in self.storage else Storage()
        fields = self.storage.fields
        self.storage[sock] = Storage(
            connect_ns=time.monotonic_ns(),
            direction=Direction.OUTBOUND,
            via_waypoint=before.via_waypoint,
            asked_for=(address, port) if "asked_for" in fields else None,
        )

    def __getattr__(self, name: str) -> Any:
        """Only asked for what `__init__` could not set."""
        if name in _ROLES:
            self._roles.require(_ROLES[name])
        raise AttributeError(name)

    def _set_collections(self) -> None:
        """An attribute for each role that era and set have."""
        roles = self._roles
        hosts = self.lab.hosts.values() if self.profile.managed.cookies else ()
        cookies = [host.netns_cookie for host in hosts if host.netns_cookie is not None]
        for name, make in (
            ("managed", lambda: roles.managed(cookies)),
            ("verdicts", lambda: roles.verdicts),
            ("storage", lambda: roles.storage),
            ("sockhash", lambda: roles.sockhash),
            ("observed", lambda: roles.stream("observe", roles.observed)),
            ("auth_requests", lambda: roles.stream("auth_requests", roles.auth_requests)),
            ("log", lambda: roles.stream("log", roles.log)),
            ("access_log", lambda: roles.stream("access_log", roles.access_log)),
        ):
            with suppress(Absent):
                setattr(self, name, make())

    def _reset(self) -> None:
        """What an earlier lab left: people's own tests share the loaded set."""
        self._roles.clear()
        self.config.reset()
        fill_routes(self.programs, self.profile, self.lab)

    def manage(self, *who: Host | Address) -> None:
        """Makes addresses managed: those given, and all of each host. By writing the map."""
        self._manage(who, True)

    def unmanage(self, *who: Host | Address) -> None:
        """The reverse of `manage`."""
        self._manage(who, False)

    def _manage(self, who: tuple[Host | Address, ...], on: bool) -> None:
        change = self.managed.add if on else self.managed.discard
        for one in who:
            if not isinstance(one, Host):
                change(one)
                continue
            for address in one.addresses:
                if address.version == 4 or "ipv6" not in self.profile.lacks:
                    change(address)
            if self.profile.managed.cookies and one.netns_cookie is not None:
                self.managed.set_cookie(one.netns_cookie, on)

    def enrol(self, host: Host, family: Family) -> None:
        """Enrols a host as a real node does: it connects to the control address, port 929."""
        self.control_connect(host, family, self.profile.control.enrol_port)

    def remove(self, host: Host, family: Family) -> None:
        """Removes a host by a connect to the control address, port 930."""
        self.control_connect(host, family, self.profile.control.remove_port)

    def control_address(self, family: Family) -> Address:
        """The control address of a family. `Absent` where the era has none."""
        control = self.profile.control
        if family is not Family.V6:
            return control.ipv4
        if control.ipv6 is None:
            raise Absent(f"{self.profile.about}: it has no IPv6 control address")
        return control.ipv6

    def control_connect(self, host: Host, family: Family, port: int, address: Address | None = None) -> None:
        """Connects to the control address, or to ``address`` of the same family, and closes at once.

        Non-blocking: nobody answers. The program has run when this returns. In the family
        ``mapped`` the socket is an IPv6 one and the address is ``::ffff:a.b.c.d``.
        """
        if address is None:
            address = self.control_address(family)
        if family is Family.MAPPED:
            address = ipaddress.IPv6Address(f"::ffff:{address}")
        with host.socket(family.listener) as sock:
            sock.setblocking(False)
            code = sock.connect_ex((str(address), port))
            if code != errno.EINPROGRESS:
                raise OSError(code, f"connect to [{address}]:{port} from {host.name}: {os.strerror(code)}")

    def via_waypoint(self, sock: socket.socket) -> None:
        """Marks a socket for the waypoint, before it connects. `Absent` where user space cannot."""
        self.profile.require("waypoint")
        self.storage[sock] = Storage(via_waypoint=True)

    def waypoint_metadata(self, connection: ConnTuple) -> bytes:
        """What a waypoint reads ahead of the payload. `Absent` without a sk_msg program in the set."""
        if not self.has(ProgramKind.SK_MSG):
            raise Absent("the set has no sk_msg program, which writes the metadata")
        return waypoint_metadata(connection.dst, connection.dport)

    def observed_of(self, connection: ConnTuple) -> list[ObserveRecord]:
        """The observe records of one connection, both sides."""
        return [record for record in self.observed if record.tuple == connection]

    def authorize(self, judge: Callable[[AuthRequest], Verdict]) -> list[AuthRequest]:
        """Plays the authorizer: judges each request that came since the last call, writes its verdict.

        Returns the requests that were judged.
        """
        requests = self.auth_requests[self._judged :]
        for request in requests:
            self.verdicts[request.tuple] = judge(request)
        self._judged += len(requests)
        return requests

    def reports(self) -> list[ObserveRecord]:
        """The observe records so far; none where the era reports none, which is as well where none may be."""
        with suppress(Absent):
            return list(self.observed)
        return []

    def complaints(self) -> list[LogEvent]:
        """What the program logged; nothing where its era logs elsewhere."""
        with suppress(Absent):
            return list(self.log)
        return []

    def eventually(
        self, condition: Callable[[], T], *, awaited: Awaited = "", deadline: float = DEADLINE_S
    ) -> T:
        """Waits for a condition, as `Lab.eventually`."""
        __tracebackhide__ = True
        return self.lab.eventually(condition, awaited=awaited, deadline=deadline)

    def abandon(self) -> None:
        """Leaves the programs attached, for a child that was forked to detach."""
        self._undo.pop_all()

    def close(self) -> None:
        """Detaches the programs; the set stays loaded."""
        self._undo.close()
