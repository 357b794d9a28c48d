"""The lab: brings a topology up, owns everything in it, and takes all of it down."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeVar

from testbed.closing import Closing
from testbed.ending import undisturbed
from testbed.errors import UsageError, errno_name
from testbed.kernel.cgroup import make_cgroup
from testbed.kernel.descriptors import make_room
from testbed.kernel.links import QUIET_SYSCTLS, End, await_ready, veth
from testbed.kernel.namespace import Namespace
from testbed.kernel.netlink import Message, execute
from testbed.kernel.sockdiag import TcpSocket
from testbed.lab.bench import Bench
from testbed.lab.chronicle import Chronicle
from testbed.lab.host import Host
from testbed.lab.impair import impair_links
from testbed.lab.wait import DEADLINE_S, Awaited, Witness, eventually
from testbed.lab.wiring import known, wire
from testbed.topology.model import Topology
from testbed.topology.suggest import did_you_mean_sysctl

T = TypeVar("T")
# Requests in a packet: the largest is 250 bytes, and a netlink socket sends 200 KiB at once.
_AT_ONCE = 400
# Of each host: cgroup, namespace, two netlink sockets, the broker's socket and pidfd.
_DESCRIPTORS = 6


class Lab(Closing):
    """Hosts, up and ready to connect. cgroups nest: ``observer_fd`` ⊃ ``cgroup_fd`` ⊃ each host's.

    Programs under test are attached to ``cgroup_fd``, observers to ``observer_fd``: the kernel runs
    a child's programs before its parent's, so an observer sees each callback after its effects.
    """

    def __init__(self, bench: Bench, topology: Topology) -> None:
        self.bench = bench
        self.topology = topology
        self.hosts: dict[str, Host] = {}
        self.witnesses: list[Witness] = []
        self.chronicles: list[Chronicle] = []
        self.holds = False
        """Whether its connections are to stay as they are when a test fails, for whoever looks then."""
        count = len(topology.hosts)
        make_room(f"make a lab of {count} hosts", _DESCRIPTORS * count)
        with ExitStack() as stack:
            with bench.spawner.births(list(topology.hosts), QUIET_SYSCTLS) as births:
                observer = bench.next_lab()
                self.observer_fd = make_cgroup(observer, stack)
                self.cgroup_path = observer / "lab"
                self.cgroup_fd = make_cgroup(self.cgroup_path, stack)
                cgroup_fds = self._make_cgroups(stack)
                self.wiring = wire(topology)
                stack.callback(self._end_hosts)
                with births.forked(cgroup_fds) as namespaces:
                    self._add_hosts(namespaces, cgroup_fds)
                    self._link_hosts()
            impair_links(self)
            self._host_of_cookie = {host.netns_cookie: name for name, host in self.hosts.items()}
            self._undo = stack.pop_all()

    def __repr__(self) -> str:
        return f"<Lab {self.topology.name}: {', '.join(map(repr, self.hosts.values()))}>"

    def __getitem__(self, name: str) -> Host:
        """A host by its name."""
        return self.hosts[name]

    def _make_cgroups(self, stack: ExitStack) -> dict[str, int]:
        return {
            name: make_cgroup(self.cgroup_path / (host.cgroup or name), stack)
            for name, host in self.topology.hosts.items()
        }

    def _add_hosts(self, namespaces: Mapping[str, Namespace], cgroup_fds: Mapping[str, int]) -> None:
        for name, namespace in namespaces.items():
            self.hosts[name] = Host(name, namespace, cgroup_fds[name], self.wiring.ends[name])
            self.hosts[name].on_address = self._tell_neighbours
        for name, (early, _) in self.wiring.sysctls.items():
            self._set_sysctls(name, early)

    def _set_sysctls(self, name: str, values: Mapping[str, str]) -> None:
        """One by one: the kernel's answer does not say which one it is about."""
        for sysctl, value in values.items():
            try:
                self.hosts[name].namespace.sysctl({sysctl: value})
            except OSError as error:
                dotted = sysctl.replace("/", ".")
                hint = did_you_mean_sysctl(dotted) if error.errno == errno.ENOENT else ""
                what = f"set the sysctl {dotted} of {name} to {value!r}"
                raise UsageError(what, errno_name(error.errno or 0) + hint) from error

    def _end_hosts(self) -> None:
        """Their brokers all at once; and the namespaces one behind the other, for the kernel to take them
        apart in one go.
        """
        with ExitStack() as stack:
            for host in self.hosts.values():
                stack.callback(host.close)
            for host in self.hosts.values():
                stack.callback(host.namespace.end)
            for host in self.hosts.values():
                host.namespace.hang_up()

    def _link_hosts(self) -> None:
        """In as few requests as there can be: an end comes up only with its peer there."""
        wiring = self.wiring
        left = {name: list(messages) for name, messages in wiring.up.items() if messages}
        made: dict[str, list[Message]] = {name: [] for name in self.hosts}
        for each in wiring.wires:
            peer_netns_fd = self.hosts[each.peer_host].namespace.netns_fd
            made[each.host].append(veth(each.end, each.peer, peer_netns_fd))
        for name, veths in made.items():
            bridges = len(self.topology.hosts[name].bridges)
            has_all = len(veths) == len(wiring.ends[name]) - bridges
            self._execute(name, veths + left.pop(name, []) if has_all else veths)
        for name, messages in left.items():
            self._execute(name, messages)
        for name, (_, late) in wiring.sysctls.items():
            self._set_sysctls(name, late)
        for name, host in reversed(self.hosts.items()):
            await_ready(self._route(name), host.ends)

    def _tell_neighbours(self, end: End) -> None:
        """Of an end on a bridge, which has an address more."""
        for name, other in self.wiring.around_bridges(end.index):
            self._execute(name, known(other, [end]))

    def _execute(self, name: str, messages: Sequence[Message]) -> None:
        for start in range(0, len(messages), _AT_ONCE):
            execute(self._route(name), messages[start : start + _AT_ONCE])

    def _route(self, name: str) -> socket.socket:
        return self.hosts[name].namespace.route

    def eventually(
        self, condition: Callable[[], T], *, awaited: Awaited = "", deadline: float = DEADLINE_S
    ) -> T:
        """`testbed.lab.wait.eventually`, woken by what happens in this lab."""
        __tracebackhide__ = True
        return eventually(condition, awaited=awaited, deadline=deadline, witnesses=self.witnesses)

    def settle(self, deadline: float = DEADLINE_S) -> list[TcpSocket]:
        """Waits until nothing is under way: no handshake, no unanswered FIN, no unacknowledged data.

        Then every callback that follows from what was done has run. It is the kernel's word
        (sock_diag) on all hosts; and as a socket can look closed there an instant before its last
        callback has ended, each witness is asked too. Returns every TCP socket of the lab, at rest.
        `WaitExpired` says what is not.
        """
        __tracebackhide__ = True
        there: list[tuple[str, TcpSocket]] = []

        def at_rest() -> bool:
            there[:] = self._there()
            return not self._moving(there)

        self.eventually(
            at_rest,
            awaited=lambda: f"every TCP socket of the lab at rest; not so: {'; '.join(self._moving(there))}",
            deadline=deadline,
        )
        return [sock for _, sock in there]

    def _there(self) -> Iterator[tuple[str, TcpSocket]]:
        return ((name, sock) for name, host in self.hosts.items() for sock in host.tcp_sockets())

    def _moving(self, found: Sequence[tuple[str, TcpSocket]]) -> list[str]:
        moving = [f"{name}: {sock}" for name, sock in found if not sock.at_rest]
        present = {sock.cookie for _, sock in found if sock.is_whole}
        return moving + [what for witness in self.witnesses for what in witness.pending(present)]

    def host_of_cookie(self, netns_cookie: int) -> str | None:
        """The name of the host whose namespace has this cookie (Linux 5.14)."""
        return self._host_of_cookie.get(netns_cookie)

    def abandon(self) -> None:
        """Leaves the lab to a child that was forked: nothing is undone here."""
        self._undo.pop_all()
        for host in self.hosts.values():
            host.is_gone = True
            host.namespace.abandon()

    def close(self) -> None:
        """Takes the lab down. Programs that were attached to its cgroups are detached by then."""
        with undisturbed():
            self._undo.close()
