"""The testbed's end of the brokers: starts the spawner, asks it for namespaces, asks those for sockets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from socket import AF_NETLINK, AF_UNIX, SOCK_RAW, SOCK_SEQPACKET, socketpair
from socket import socket as Socket
from threading import Lock
from typing import Any

from testbed.closing import Closing
from testbed.deadlines import scaled
from testbed.errors import MachineError, TestbedError, errno_name
from testbed.kernel import broker
from testbed.kernel.cgroup import await_end
from testbed.kernel.netlink import prepare
from testbed.logs import save_log

REPLY_DEADLINE_S = scaled(10.0)
_LOG = "brokers"
_GONE = f"was it killed? its lab cannot be used any more; what it said last is in the log {_LOG}.log"
_NEEDED = "run as root (CAP_SYS_ADMIN and CAP_NET_ADMIN) on Linux 5.10 or later"
_MOST_OWED = 32  # replies that wait in its socket
_AT_ONCE = 16  # brokers in a request: two descriptors each, of the 64 that a message may have
_START = (
    "import sys; sys.path.append(sys.argv[1]);"
    " from testbed.kernel.broker import main; main(*map(int, sys.argv[2:]))"
)


def _pair() -> tuple[Socket, Socket]:
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    ours.settimeout(REPLY_DEADLINE_S)
    return ours, theirs


def _reply(sock: Socket, who: str) -> tuple[list[Any], list[int]]:
    """The next reply, with the descriptors that came before it."""
    fds: list[int] = []
    try:
        while True:
            values, received = broker.receive(sock)
            fds += received
            if values != ["fds"]:
                return values, fds
    except (EOFError, ConnectionError) as error:
        broker.close_all(fds)
        raise TestbedError(f"hear from {who}", "it is gone", _GONE) from error
    except TimeoutError as error:
        broker.close_all(fds)
        raise TestbedError(f"hear from {who}", f"no answer within {REPLY_DEADLINE_S:.0f} s") from error


def _send(sock: Socket, who: str, message: Sequence[object], fds: Sequence[int]) -> None:
    try:
        broker.send(sock, message, fds)
    except ConnectionError as error:
        raise TestbedError(f"ask {who}", "it is gone", _GONE) from error


def _ask(
    sock: Socket, who: str, message: Sequence[object], fds: Sequence[int] = ()
) -> tuple[list[Any], list[int]]:
    """Asks and returns (the reply's values, its descriptors). `OSError` is the kernel's own answer."""
    _send(sock, who, message, fds)
    (code, *values), received = _reply(sock, who)
    if code:
        raise OSError(code, str(values[0]))
    return values, received


class _Descriptor(Closing):
    """Owns a descriptor; closing it again is harmless, whoever has its number by then."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._undo = ExitStack()
        self._undo.callback(os.close, fd)

    def close(self) -> None:
        self._undo.close()


class Namespace:
    """A network namespace with its broker. `netns_fd` keeps it alive; `close` lets go of both.

    ``route`` is a NETLINK_ROUTE socket of the namespace, ``diag`` a NETLINK_SOCK_DIAG one, ``let_go`` is
    `Spawner.let_go`.
    """

    def __init__(
        self,
        name: str,
        control: Socket,
        pid: int,
        pidfd: _Descriptor,
        netns: _Descriptor,
        route: Socket,
        diag: Socket,
        let_go: Callable[[Socket], None],
    ) -> None:
        self.name = name
        self.let_go = let_go
        self.pid = pid
        self._lock = Lock()
        self.netns_fd = netns.fd
        self.route = route
        self.diag = diag
        self._control = control
        self._undo = ExitStack()
        self._undo.callback(netns.close)
        self._undo.callback(route.close)
        self._undo.callback(diag.close)
        self._broker = ExitStack()
        self._broker.callback(pidfd.close)
        self._broker.callback(self._await_end, pidfd.fd)
        self._broker.callback(control.close)
        self._undo.callback(self.end)

    def _ask(self, message: Sequence[object], fds: Sequence[int] = ()) -> tuple[list[Any], list[int]]:
        with self._lock:  # a test's threads share its hosts
            return _ask(self._control, f"the broker of {self.name}", message, fds)

    def socket(self, family: int, kind: int, protocol: int = 0) -> Socket:
        """A socket born in this namespace and cgroup; no copy of it is left. `OSError` as usual."""
        return self.sockets(1, family, kind, protocol)[0]

    def sockets(self, count: int, family: int, kind: int, protocol: int = 0) -> list[Socket]:
        """As many of them, of at most 64: at the price of one."""
        _, fds = self._ask(["sockets", int(family), int(kind), protocol, count])
        return [Socket(family, kind, fileno=fd) for fd in fds]

    def sysctl(self, values: Mapping[str, str]) -> None:
        """Writes sysctls of this namespace; names with slashes, as under /proc/sys."""
        self._ask(["sysctl", dict(values)])

    def spawn(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str, stdio: Sequence[int]
    ) -> tuple[Socket, int, int]:
        """Starts a command here. Returns (status, pid, pidfd): status gets the exit code, as `[code]`.

        Closing status kills the command. `OSError` when it cannot be executed.
        """
        status, theirs = _pair()
        with ExitStack() as undo:
            undo.enter_context(status)
            with theirs:
                self._ask(["spawn", list(argv), dict(env), cwd], [theirs.fileno(), *stdio])
            (code, *values), fds = _reply(status, f"the command {argv[0]}")
            if code:
                raise OSError(code, str(values[0]))
            undo.pop_all()
        status.settimeout(None)
        return status, int(values[0]), fds[0]

    def _await_end(self, pidfd: int) -> None:
        if not await_end(pidfd, time.monotonic() + REPLY_DEADLINE_S):
            raise TestbedError(
                f"end the broker of {self.name}",
                f"it lives on {REPLY_DEADLINE_S:.0f} s after its socket closed",
            )

    def hang_up(self) -> None:
        """Lets the broker end, and does not wait for it: `close` does."""
        self._control.close()

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
        for sock in (self._control, self.route, self.diag):
            sock.close()


def _chunks(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


def _born(name: str, control: Socket, pidfd: _Descriptor, let_go: Callable[[Socket], None]) -> Namespace:
    (code, *values), fds = _reply(control, f"the broker of {name}")
    if code:
        broker.close_all(fds)
        raise MachineError(
            f"make the network namespace of {name}", f"{errno_name(code)}: {values[0]}", _NEEDED
        )
    netns, route, diag = _Descriptor(fds[0]), _netlink(fds[1]), _netlink(fds[2])
    return Namespace(name, control, int(values[0]), pidfd, netns, route, diag, let_go)


def _netlink(fd: int) -> Socket:
    return prepare(Socket(AF_NETLINK, SOCK_RAW, fileno=fd))


class Spawner(Closing):
    """The small process that every broker is forked from. One a process; a context manager."""

    def __init__(self, buckets: int = 8192) -> None:
        """``buckets`` are those of each namespace's table of TCP connections (from Linux 6.1 on)."""
        ours, theirs = _pair()
        with theirs:
            package = Path(__file__).resolve().parents[2]
            # not to our own stderr: it and its brokers can outlive us, where a lab is handed on
            with save_log(_LOG, "").open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        "-c",
                        _START,
                        str(package),
                        str(theirs.fileno()),
                        str(buckets),
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                )
        self._control = ours
        self._owed = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def namespaces(self, cgroup_fds: Mapping[str, int], sysctls: Mapping[str, str]) -> dict[str, Namespace]:
        """Makes network namespaces, by name, each with a broker in its cgroup and the sysctls set.

        `MachineError` when the kernel refuses one; then none is left.
        """
        with ExitStack() as undo:
            made: dict[str, Namespace] = {}
            for names in _chunks(list(cgroup_fds), _AT_ONCE):
                controls, pidfds = self._fork(names, [cgroup_fds[name] for name in names], sysctls, undo)
                for name, control, pidfd in zip(names, controls, pidfds, strict=True):
                    made[name] = _born(name, control, pidfd, self.let_go)
                    undo.callback(made[name].close)
            undo.pop_all()
        return made

    def _fork(
        self, names: Sequence[str], cgroup_fds: Sequence[int], sysctls: Mapping[str, str], undo: ExitStack
    ) -> tuple[list[Socket], list[_Descriptor]]:
        """Asks for brokers all at once: one sets its namespace up while the next is forked."""
        controls, passed = [], []
        with ExitStack() as theirs:
            for cgroup_fd in cgroup_fds:
                ours, other = _pair()
                controls.append(undo.enter_context(ours))
                passed += [cgroup_fd, theirs.enter_context(other).fileno()]
            _send(self._control, "the spawner", ["brokers", dict(sysctls)], passed)
        self._hear_out()
        (code, *values), fds = _reply(self._control, "the spawner")
        pidfds = [undo.enter_context(_Descriptor(fd)) for fd in fds]
        if code:
            raise MachineError(
                f"fork the brokers of {', '.join(names)}", f"{errno_name(code)}: {values[0]}", _NEEDED
            )
        return controls, pidfds

    def let_go(self, sock: Socket) -> None:
        """Closes a socket whose close() the kernel is slow with, in a process of its own.

        A packet socket's takes 10 ms: ``packet_release`` waits until no CPU can be sending to it.
        """
        if self._control.fileno() < 0:  # abandoned: there is no hurry any more
            sock.close()
            return
        _send(self._control, "the spawner", ["let_go"], [sock.fileno()])
        sock.close()
        self._owed += 1
        if self._owed == _MOST_OWED:
            self._hear_out()

    def _hear_out(self) -> None:
        """Takes the replies that nobody has waited for."""
        while self._owed:
            _reply(self._control, "the spawner")
            self._owed -= 1

    def abandon(self) -> None:
        """Leaves it to a child that was forked: its copy of the control socket keeps it."""
        self._control.close()
        self._process.returncode = 0  # nobody waits for it here any more

    def close(self) -> None:
        """Ends the spawner, and with it every broker that is left."""
        self._control.close()
        try:
            self._process.wait(REPLY_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
