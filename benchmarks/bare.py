"""The bare topology: namespaces, link, addresses, routes, ready to connect; no cgroups and no brokers.

It is what `testbed.kernel` makes of a topology's requests, in a thread of one's own: a thread has its
own network namespace, and a netlink socket keeps the one that it was born in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from socket import AF_NETLINK, NETLINK_ROUTE, SOCK_RAW
from socket import socket as Socket

from benchmarks.measure import clocked
from benchmarks.named import in_thread
from testbed.kernel.links import QUIET_SYSCTLS, await_ready, veth
from testbed.kernel.netlink import execute, prepare
from testbed.kernel.syscalls import CLONE_NEWNET, unshare
from testbed.lab.wiring import Wiring


@dataclass(frozen=True)
class BareHost:
    """A namespace by its descriptor, and a NETLINK_ROUTE socket that was born in it."""

    netns_fd: int
    route: Socket


def _bare_host(stack: ExitStack) -> BareHost:
    """Of the calling thread, which is in it from then on."""
    unshare(CLONE_NEWNET)
    for name, value in QUIET_SYSCTLS.items():
        fd = os.open(f"/proc/sys/{name}", os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return BareHost(fd, stack.enter_context(prepare(Socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE))))


@contextmanager
def bare(wiring: Wiring) -> Iterator[dict[str, BareHost]]:
    """The hosts of a wiring without bridges and forwarding, up; in a thread that may change its namespace."""
    with ExitStack() as stack:
        hosts = {name: _bare_host(stack) for name in wiring.ends}
        for each in wiring.wires:
            made = veth(each.end, each.peer, hosts[each.peer_host].netns_fd)
            execute(hosts[each.host].route, [made, *wiring.up[each.host]])
            execute(hosts[each.peer_host].route, wiring.up[each.peer_host])
        for name, host in hosts.items():
            await_ready(host.route, wiring.ends[name])
        yield hosts


def bare_milliseconds(wiring: Wiring) -> float:
    """How long it took until all was ready; taking it down is outside of the time."""
    times: list[float] = []

    def run() -> None:
        with ExitStack() as stack, clocked(times):
            stack.enter_context(bare(wiring))
            left = stack.pop_all()
        left.close()

    in_thread(run)
    return times[0]
