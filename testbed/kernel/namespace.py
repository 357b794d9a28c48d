"""A network namespace with its broker, as the testbed's process holds them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from socket import AF_NETLINK, SOCK_RAW
from socket import socket as Socket

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.errors import TestbedError
from testbed.kernel.cgroup import await_end
from testbed.kernel.line import REPLY_DEADLINE_S, Line, answer, control_pair, hear
from testbed.kernel.netlink import prepare
from testbed.kernel.privileges import needing


class Descriptor(Closing):
    """Owns a descriptor; closing it again is harmless, whoever has its number by then."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._undo = ExitStack()
        self._undo.callback(os.close, fd)

    def close(self) -> None:
        self._undo.close()


class Namespace(Closing):
    """A network namespace with its broker. `netns_fd` keeps it alive; `close` lets go of both.

    ``route`` is a NETLINK_ROUTE socket of the namespace, ``diag`` a NETLINK_SOCK_DIAG one, ``let_go`` is
    `Spawner.let_go`. The namespace comes first: what a broker is asked for before it is `born`, it
    answers then.
    """

    def __init__(
        self, name: str, control: Socket, fds: Sequence[int], let_go: Callable[[Socket], None]
    ) -> None:
        """``fds``: the namespace's own, then of both netlink sockets. They belong to this from then on."""
        netns, route, diag = fds
        acquired("namespace", netns)
        self.name = name
        self.let_go = let_go
        self.pid = 0
        self.netns_fd = netns
        self.route = _netlink(route)
        self.diag = _netlink(diag)
        self._line = Line(control, f"the broker of {name}")
        self._undo = ExitStack()
        self._undo.callback(Descriptor(netns).close)
        self._undo.callback(self.route.close)
        self._undo.callback(self.diag.close)
        self._broker = ExitStack()
        self._broker.callback(self._line.close)
        self._undo.callback(self.end)

    def born(self, pid: int, pidfd: int) -> None:
        """Its broker is there, and the pidfd is this namespace's."""
        acquired("pidfd", pidfd)
        acquired("process", pid)
        self.pid = pid
        self._broker.callback(Descriptor(pidfd).close)
        self._broker.callback(self._await_end, pidfd)
        self._broker.callback(self._line.close)

    def socket(self, family: int, kind: int, protocol: int = 0) -> Socket:
        """A socket born in this namespace and cgroup; no copy of it is left. `OSError` as usual."""
        return self.sockets(1, family, kind, protocol)[0]

    def sockets(self, count: int, family: int, kind: int, protocol: int = 0) -> list[Socket]:
        """As many of them, of at most 64: at the price of one."""
        with needing(f"make a packet socket on {self.name}", "CAP_NET_RAW"):
            _, fds = self._line.ask("sockets", int(family), int(kind), protocol, count)
        return [Socket(family, kind, fileno=fd) for fd in fds]

    def sysctl(self, values: Mapping[str, str]) -> None:
        """Writes sysctls of this namespace; names with slashes, as under /proc/sys."""
        self._line.ask("sysctl", dict(values))

    def spawn(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str, stdio: Sequence[int]
    ) -> tuple[Socket, int, int]:
        """Starts a command here. Returns (status, pid, pidfd): status gets the exit code, as `[code]`.

        Closing status kills the command. `OSError` when it cannot be executed.
        """
        status, theirs = control_pair()
        with ExitStack() as undo:
            undo.enter_context(status)
            with theirs:
                self._line.ask("spawn", list(argv), dict(env), cwd, fds=[theirs.fileno(), *stdio])
            who = f"the command {argv[0]}"
            (pid, *_), fds = answer(hear(status, who), who)
            undo.pop_all()
        acquired("process", pid)
        status.settimeout(None)
        return status, int(pid), fds[0]

    def _await_end(self, pidfd: int) -> None:
        if not await_end(pidfd, time.monotonic() + REPLY_DEADLINE_S):
            raise TestbedError(
                f"end the broker of {self.name}",
                f"it lives on {REPLY_DEADLINE_S:.0f} s after its socket closed",
            )

    def hang_up(self) -> None:
        """Lets the broker end, and does not wait for it: `close` does."""
        self._line.close()

    def end(self) -> None:
        """Lets the broker end, and waits until it has; the namespace stays. Once more is harmless."""
        self._broker.close()

    def close(self) -> None:
        """Ends the broker and drops the namespace. Once more is harmless."""
        self._undo.close()

    def abandon(self) -> None:
        """Leaves both to a child that was forked: its copies of the descriptors keep them."""
        self._undo.pop_all()
        self._broker.pop_all()
        self._line.close()
        for sock in (self.route, self.diag):
            sock.close()


def _netlink(fd: int) -> Socket:
    return prepare(Socket(AF_NETLINK, SOCK_RAW, fileno=fd))
