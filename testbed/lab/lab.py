"""The lab: brings a topology up, owns everything in it, and takes all of it down."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TypeVar

from testbed.closing import Closing
from testbed.kernel.cgroup import make_cgroup
from testbed.kernel.links import QUIET_SYSCTLS, await_ready, veth
from testbed.kernel.netlink import execute
from testbed.kernel.sockdiag import TcpSocket
from testbed.lab.bench import Bench
from testbed.lab.host import Host
from testbed.lab.topology import Topology
from testbed.lab.wait import DEADLINE_S, Awaited, Witness, eventually

T = TypeVar("T")


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
            self._host_of_cookie = {host.netns_cookie: name for name, host in self.hosts.items()}
            self._undo = stack.pop_all()

    def __repr__(self) -> str:
        return f"<Lab {self.topology.name}: {', '.join(map(repr, self.hosts.values()))}>"

    def __getitem__(self, name: str) -> Host:
        """A host by its name."""
        return self.hosts[name]

    def _add_hosts(self, bench: Bench, stack: ExitStack) -> None:
        cgroup_fds = {name: make_cgroup(self.cgroup_path / name, stack) for name in self.topology.hosts}
        namespaces = bench.spawner.namespaces(cgroup_fds, QUIET_SYSCTLS)
        stack.callback(self._end_hosts)
        for name, namespace in namespaces.items():
            self.hosts[name] = Host(name, namespace, cgroup_fds[name], self.topology.wiring.ends[name])

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
        wiring = self.topology.wiring
        left = {name: list(messages) for name, messages in wiring.up.items() if messages}
        for name in self.hosts:
            made = [
                veth(wire.end, wire.peer, self.hosts[wire.peer_host].namespace.netns_fd)
                for wire in wiring.wires
                if wire.host == name
            ]
            if len(made) == len(wiring.ends[name]):  # all that it has
                made += left.pop(name, [])
            if made:
                execute(self._route(name), made)
        for name, messages in left.items():
            execute(self._route(name), messages)
        for name, host in reversed(self.hosts.items()):
            await_ready(self._route(name), host.ends)

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

    def close(self) -> None:
        """Takes the lab down. Programs that were attached to its cgroups are detached by then."""
        self._undo.close()
