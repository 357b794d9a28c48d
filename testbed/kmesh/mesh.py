"""The program set attached to a lab, and everything it says by role."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from testbed.bpf.kinds import ProgramKind
from testbed.bpf.program_set import ProgramSet, attach
from testbed.closing import Closing
from testbed.errors import UsageError
from testbed.kmesh.abi import MAIN, Abi, Verdict
from testbed.kmesh.config import Config
from testbed.kmesh.records import AuthRequest, LogEvent, ObserveRecord
from testbed.kmesh.views import ManagedSet, SockhashKeys, StorageMap, Stream, VerdictMap
from testbed.lab.family import Address, ConnTuple, Family
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.lab.wait import DEADLINE_S, Awaited

T = TypeVar("T")


class Mesh(Closing):
    """The program set at work in a lab, its state empty to begin with.

    ``managed`` is a set of addresses, ``verdicts`` a mapping of connections, ``storage`` is indexed
    by sockets, ``sockhash`` is a set of tuples (local to remote), ``observed``, ``auth_requests``
    and ``log`` are streams of records, ``config`` has the program's variables.
    """

    def __init__(self, program_set: ProgramSet, lab: Lab, abi: Abi = MAIN) -> None:
        if program_set.in_use:
            raise UsageError(
                f"attach {program_set.origin}",
                "it is at work in another lab, and its maps are one lab's at a time",
                "close that lab's mesh first, or load the set once more",
            )
        self.lab = lab
        self.abi = abi
        maps = program_set.maps
        self.managed = ManagedSet(maps[abi.managed])
        self.verdicts = VerdictMap(maps[abi.auth_results], abi.auth_ports)
        self.storage = StorageMap(maps[abi.storage], abi.storage_ports)
        self.sockhash = SockhashKeys(maps[abi.sockhash], abi.sockhash_ports)
        self.config = Config(program_set.variables)
        with ExitStack() as stack:
            program_set.in_use = True
            stack.callback(setattr, program_set, "in_use", False)
            self.observed = Stream(
                maps[abi.observe], lambda data: ObserveRecord.decode(data, abi.observe_ports)
            )
            stack.callback(self.observed.close)
            self.auth_requests = Stream(
                maps[abi.auth_requests], lambda data: AuthRequest.decode(data, abi.auth_ports)
            )
            stack.callback(self.auth_requests.close)
            self.log = Stream(maps[abi.log], LogEvent.decode)
            stack.callback(self.log.close)
            self._reset()
            for program in program_set.programs.values():
                on_cgroup = program.kind is not ProgramKind.SK_MSG
                attach(program, lab.cgroup_fd if on_cgroup else maps[abi.sockhash].fd, stack)
            self._undo = stack.pop_all()
        self._judged = 0

    def __repr__(self) -> str:
        return (
            f"<Mesh managed={self.managed!r} verdicts={self.verdicts!r} sockhash={self.sockhash!r}"
            f" observed={self.observed!r} auth_requests={self.auth_requests!r} log={self.log!r}>"
        )

    def _reset(self) -> None:
        """What an earlier lab left: people's own tests share the loaded set."""
        self.managed.clear()
        self.verdicts.clear()
        self.sockhash.clear()
        self.config.reset()
        for stream in (self.observed, self.auth_requests, self.log):
            stream.clear()

    def manage(self, *who: Host | Address) -> None:
        """Makes addresses managed: those given, and all of each host. By writing the map."""
        for address in self._addresses(who):
            self.managed.add(address)

    def unmanage(self, *who: Host | Address) -> None:
        """The reverse of `manage`."""
        for address in self._addresses(who):
            self.managed.discard(address)

    @staticmethod
    def _addresses(who: tuple[Host | Address, ...]) -> list[Address]:
        return [address for one in who for address in (one.addresses if isinstance(one, Host) else [one])]

    def enrol(self, host: Host, family: Family) -> None:
        """Enrols a host as a real node does: it connects to the control address, port 929."""
        self.control_connect(host, family, self.abi.enrol_port)

    def remove(self, host: Host, family: Family) -> None:
        """Removes a host by a connect to the control address, port 930."""
        self.control_connect(host, family, self.abi.remove_port)

    def control_connect(self, host: Host, family: Family, port: int, address: Address | None = None) -> None:
        """Connects to the control address, or to ``address`` of the same family, and closes at once.

        Non-blocking: nobody answers. The program has run when this returns. In the family
        ``mapped`` the socket is an IPv6 one and the address is ``::ffff:a.b.c.d``.
        """
        if address is None:
            address = self.abi.control_ipv6 if family is Family.V6 else self.abi.control_ipv4
        if family is Family.MAPPED:
            address = ipaddress.IPv6Address(f"::ffff:{address}")
        with host.socket(family.listener) as sock:
            sock.setblocking(False)
            code = sock.connect_ex((str(address), port))
            if code != errno.EINPROGRESS:
                raise OSError(code, f"connect to [{address}]:{port} from {host.name}: {os.strerror(code)}")

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

    def eventually(
        self, condition: Callable[[], T], *, awaited: Awaited = "", deadline: float = DEADLINE_S
    ) -> T:
        """Waits for a condition, as `Lab.eventually`."""
        __tracebackhide__ = True
        return self.lab.eventually(condition, awaited=awaited, deadline=deadline)

    def close(self) -> None:
        """Detaches the programs; the set stays loaded."""
        self._undo.close()
