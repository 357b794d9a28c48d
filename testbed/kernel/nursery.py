"""The spawner: the process that namespaces are made in and brokers are forked from.

It makes a namespace itself, and forks the broker in it: of the two it is the one whose pages are all its
own already. A forked Python pays for each page that it touches, 2 µs here, so both it and the broker do
as little as can be between the fork and the word that the broker is ready.
"""

from __future__ import annotations

import gc
import os
import sys
from _signal import SIG_IGN, SIGCHLD, SIGINT, signal  # type: ignore[import-not-found]  # signal is several times its size
from _socket import AF_NETLINK, NETLINK_ROUTE, SOCK_RAW, socket

from testbed.kernel.broker import be_broker, close_all, serve, set_sysctls
from testbed.kernel.syscalls import CLONE_NEWNET, Cloner, only_effective, setns, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from testbed.kernel.broker import Handler

_NETLINK_SOCK_DIAG = 4
_KEPT = 1 << 12 | 1 << 13  # CAP_NET_ADMIN, for sysctls, and CAP_NET_RAW, for packet sockets: of its namespace


class Nursery:
    """The handlers of the spawner's requests. ``home`` is the namespace that it is in between them."""

    def __init__(self) -> None:
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._cloner = Cloner()
        self._rights = only_effective(_KEPT)

    def namespaces(
        self, _fds: list[int], count: int, sysctls: dict[str, str]
    ) -> tuple[list[object], list[int]]:
        """Makes network namespaces; of each: itself, a NETLINK_ROUTE socket, a NETLINK_SOCK_DIAG one."""
        made: list[int] = []
        try:
            for _ in range(count):
                unshare(CLONE_NEWNET)
                made.append(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
                set_sysctls(sysctls)
                made.append(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE).detach())
                made.append(socket(AF_NETLINK, SOCK_RAW, _NETLINK_SOCK_DIAG).detach())
                setns(self._home, CLONE_NEWNET)  # the next one takes the size of its tables from there
        except OSError:
            close_all(made)
            setns(self._home, CLONE_NEWNET)
            raise
        return [], made

    def brokers(self, fds: list[int]) -> tuple[list[object], list[int]]:
        """Forks a broker for each (cgroup, control socket, namespace) in ``fds``.

        Returns their pids and hands their pidfds over, in order. They are ready then: nothing of what
        they inherited is open in them. When one cannot be forked those before it end too, as soon as
        their control sockets close.
        """
        pids: list[object] = []
        pidfds: list[int] = []
        ready, unready = os.pipe()
        ends = [ready, unready]
        try:
            for at in range(0, len(fds), 3):
                setns(fds[at + 2], CLONE_NEWNET)
                pid, pidfd = self._cloner.into(fds[at])
                if pid == 0:
                    try:
                        be_broker(fds[at + 1], unready, self._rights)
                    finally:
                        os._exit(0)
                pids.append(pid)
                pidfds.append(pidfd)
            os.close(ends.pop())
            _await_ready(ready)
        except OSError:
            close_all(pidfds)
            raise
        finally:
            setns(self._home, CLONE_NEWNET)
            close_all(ends)
        return pids, pidfds


def _await_ready(ready: int) -> None:
    if failures := os.read(ready, 16):  # empty as soon as all brokers have closed the other end
        first = int(failures.split()[0])  # of several there is a line each
        raise OSError(first, f"a broker cannot begin: {os.strerror(first)}")


def _let_go(fds: list[int]) -> tuple[list[object], list[int]]:
    """Leaves descriptors to a child, which ends at once: what waits for their close() is that alone."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        try:
            os.close(write_end)
            os.read(read_end, 1)  # until its copies are the last
        finally:
            os._exit(0)
    close_all(fds)
    fds.clear()
    close_all([write_end, read_end])
    return [], []


def _smaller_tables(buckets: int) -> None:
    """Gives the hosts tables of TCP connections of their own (Linux 6.1).

    A namespace takes their size from the one that it is made in, so the spawner has one for that.
    sock_diag walks every bucket each time: of the machine's own table, 262,144 of them and everybody's
    connections. Without them nothing but time is lost, and where no namespace can be made, the first
    lab says so.
    """
    try:
        unshare(CLONE_NEWNET)
        set_sysctls({"net/ipv4/tcp_child_ehash_entries": str(buckets)})
    except OSError:
        return


def _keep_mapped() -> None:
    """Lets a fork copy the page tables of this process's program text too.

    The kernel leaves those of a file's pages to page faults of the child, 75 of its 170, unless a page
    of the mapping was ever written to (``vma_needs_copy``). So one is, with what it holds already. A kernel
    may forbid that (CONFIG_PROC_MEM_NO_FORCE, Linux 6.12): then there are the faults.
    """
    flags = os.O_RDWR | os.O_CLOEXEC
    maps, memory = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC), os.open("/proc/self/mem", flags)
    try:
        text = b"".join(iter(lambda: os.read(maps, 65536), b""))
        for line in text.splitlines():
            where, rights, _, _, inode, *_ = line.split()
            if inode != b"0" and rights in {b"r-xp", b"r--p"}:
                start = int(where.partition(b"-")[0], 16)
                os.pwrite(memory, os.pread(memory, 1, start), start)
    except OSError:
        return
    finally:
        close_all([maps, memory])


def main(control_fd: int, buckets: int) -> None:
    """Makes namespaces and forks brokers, until its control socket closes."""
    signal(SIGCHLD, SIG_IGN)  # brokers leave no zombies
    signal(SIGINT, SIG_IGN)  # Ctrl-C is the testbed's; we end with it
    _smaller_tables(buckets)
    nursery = Nursery()
    handlers: dict[str, Handler] = {
        "namespaces": nursery.namespaces,
        "brokers": nursery.brokers,
        "let_go": _let_go,
    }
    _keep_mapped()
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared with the brokers
    serve(socket(fileno=control_fd), handlers)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
