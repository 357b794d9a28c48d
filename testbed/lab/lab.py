"""The lab: brings a topology up, owns everything in it, and takes all of it down."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from testbed.closing import Closing
from testbed.kernel.cgroup import make_cgroup
from testbed.kernel.links import QUIET_SYSCTLS, End, await_ready, bring_up, veth
from testbed.kernel.netlink import execute
from testbed.lab.bench import Bench
from testbed.lab.host import Host
from testbed.lab.topology import EndSpec, Topology
from testbed.lab.wait import DEADLINE_S, Awaited, Witness, eventually

T = TypeVar("T")
_FIRST_INDEX = 2  # behind the loopback's


class Lab(Closing):
    """Hosts, up and ready to connect. cgroups nest: ``observer_fd`` ⊃ ``cgroup_fd`` ⊃ each host's.

    Programs under test are attached to ``cgroup_fd``, observers to ``observer_fd``: the kernel runs
    a child's programs before its parent's, so an observer sees each callback after its effects.
    """

    def __init__(self, bench: Bench, topology: Topology) -> None:
        self.topology = topology
        self.hosts: dict[str, Host] = {}
        self.witnesses: list[Witness] = []
        with ExitStack() as stack:
            observer = bench.next_lab()
            self.observer_fd = make_cgroup(observer, stack)
            self.cgroup_path = observer / "lab"
            self.cgroup_fd = make_cgroup(self.cgroup_path, stack)
            self._add_hosts(bench, stack)
            self._link_hosts()
            self._undo = stack.pop_all()

    def __repr__(self) -> str:
        return f"<Lab {self.topology.name}: {', '.join(map(repr, self.hosts.values()))}>"

    def __getitem__(self, name: str) -> Host:
        """A host by its name."""
        return self.hosts[name]

    def _add_hosts(self, bench: Bench, stack: ExitStack) -> None:
        cgroup_fds = {name: make_cgroup(self.cgroup_path / name, stack) for name in self.topology.hosts}
        namespaces = bench.spawner.namespaces(cgroup_fds, QUIET_SYSCTLS)
        for name, namespace in namespaces.items():
            self.hosts[name] = Host(name, namespace, cgroup_fds[name])
            stack.callback(self.hosts[name].close)

    def _link_hosts(self) -> None:
        ends: list[tuple[str, End, str, End]] = []
        for number, (one, other) in enumerate(self.topology.links):
            end, peer = self._ends(number, one, other)
            execute(self._route(one.host), [veth(end, peer, self.hosts[other.host].namespace.netns_fd)])
            ends += [(one.host, end, other.host, peer), (other.host, peer, one.host, end)]
        for name, end, peer_name, peer in ends:
            is_gateway = self.topology.hosts[name].gateway == peer_name
            gateways = [interface.ip for interface in peer.addresses] if is_gateway else []
            execute(self._route(name), bring_up(end, gateways))
        for name, end, _, _ in ends:
            await_ready(self._route(name), end)

    def _route(self, name: str) -> socket.socket:
        return self.hosts[name].namespace.route

    def _ends(self, number: int, one: EndSpec, other: EndSpec) -> tuple[End, End]:
        """The ends of a link: one MAC for both, an index of its own for each in the whole lab."""
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 0xFF:02x}"
        made = []
        for index, spec in enumerate((one, other), _FIRST_INDEX + 2 * number):
            host = self.hosts[spec.host]
            made.append(End(f"eth{len(host.ends)}", index, mac, spec.addresses))
            host.ends.append(made[-1])
        return made[0], made[1]

    def eventually(
        self, condition: Callable[[], T], *, awaited: Awaited = "", deadline: float = DEADLINE_S
    ) -> T:
        """`testbed.lab.wait.eventually`, woken by what happens in this lab."""
        __tracebackhide__ = True
        return eventually(condition, awaited=awaited, deadline=deadline, witnesses=self.witnesses)

    def settle(self, deadline: float = DEADLINE_S) -> None:
        """Waits until nothing is under way: no handshake, no unanswered FIN, no unacknowledged data.

        Then every callback that follows from what was done has run. It is the kernel's word
        (sock_diag) on all hosts; and as a socket can look closed there an instant before its last
        callback has ended, each witness is asked too. `WaitExpired` says what is not at rest.
        """
        __tracebackhide__ = True
        self.eventually(
            lambda: not self._moving(),
            awaited=lambda: f"every TCP socket of the lab at rest; not so: {'; '.join(self._moving())}",
            deadline=deadline,
        )

    def _moving(self) -> list[str]:
        there = [(name, host) for name, host in self.hosts.items() if not host.is_gone]
        found = [(name, sock) for name, host in there for sock in host.tcp_sockets()]
        moving = [f"{name}: {sock}" for name, sock in found if not sock.at_rest]
        present = {sock.cookie for _, sock in found if sock.is_whole}
        return moving + [what for witness in self.witnesses for what in witness.pending(present)]

    def host_of_cookie(self, netns_cookie: int) -> str | None:
        """The name of the host whose namespace has this cookie (Linux 5.14)."""
        for name, host in self.hosts.items():
            if host.netns_cookie == netns_cookie:
                return name
        return None

    def close(self) -> None:
        """Takes the lab down. Programs that were attached to its cgroups are detached by then."""
        self._undo.close()
