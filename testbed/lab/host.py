"""A host: a network namespace, a cgroup, and plain sockets and commands in both."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_RAW,
    SOCK_STREAM,
    SOL_SOCKET,
)
from socket import socket as Socket

from testbed.closing import Closing
from testbed.errors import UsageError, WaitExpired
from testbed.kernel.links import End
from testbed.kernel.netlink import prepare
from testbed.kernel.sockdiag import NETLINK_SOCK_DIAG, TcpSocket, tcp_sockets
from testbed.kernel.spawner import Namespace
from testbed.kernel.syscalls import pidfd_send_signal
from testbed.lab.family import Address, unmapped
from testbed.lab.wait import DEADLINE_S

_SO_NETNS_COOKIE = 71  # Linux 5.14; not in Python's socket module
COMMAND_DEADLINE_S = 30.0
BeforeConnect = Callable[[Socket, Address, int], None]
"""Called with a client's socket and where it is about to connect to."""


@dataclass(frozen=True)
class Completed:
    """A command that has ended: its exit code (negative: the signal), and what it wrote."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


class CommandFailed(AssertionError):
    """A command that was expected to succeed ended with another code than 0."""


class Command(Closing):
    """A command that runs on a host. Leaving the ``with`` block kills what still runs."""

    def __init__(self, argv: tuple[str, ...], status: Socket, pid: int, pidfd: int) -> None:
        self.argv = argv
        self.pid = pid
        self._status = status
        self._pidfd = pidfd
        self._code: int | None = None
        self._undo = ExitStack()
        self._undo.callback(os.close, pidfd)
        self._undo.callback(status.close)

    def wait(self, deadline: float = COMMAND_DEADLINE_S) -> int:
        """Waits for the end; returns the exit code (negative: the signal), again if asked again.

        `WaitExpired` after ``deadline`` seconds.
        """
        if self._code is None:
            self._status.settimeout(deadline)
            try:
                data = self._status.recv(64)
            except TimeoutError as error:
                raise WaitExpired(f"awaited for {deadline:g} s: the end of {' '.join(self.argv)}") from error
            if not data:
                raise WaitExpired(f"{' '.join(self.argv)}: its host is gone, and so is it")
            self._code = int(data.strip(b"[]"))
        return self._code

    def send_signal(self, number: int) -> None:
        """`ProcessLookupError` when it has ended."""
        pidfd_send_signal(self._pidfd, number)

    def kill(self) -> int:
        """Kills it and waits; returns -9, or the code that it ended with before."""
        with suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)
        return self.wait()

    def close(self) -> None:
        self._undo.close()


class Host:
    """One host of a lab. Made by the lab; its sockets are born in its namespace and cgroup."""

    def __init__(self, name: str, namespace: Namespace, cgroup_fd: int) -> None:
        self.name = name
        self.namespace = namespace
        self.cgroup_fd = cgroup_fd
        self.ends: list[End] = []
        self.before_connect: list[BeforeConnect] = []
        self._undo = ExitStack()
        self._diag: Socket | None = None
        self.netns_cookie = self._netns_cookie()

    def __repr__(self) -> str:
        return f"<Host {self.name} {' '.join(map(str, self.addresses))}>"

    def _netns_cookie(self) -> int | None:
        try:
            value = self.namespace.route.getsockopt(SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:  # ENOPROTOOPT before Linux 5.14
            return None
        return int.from_bytes(value, "little")

    @property
    def addresses(self) -> list[Address]:
        return [interface.ip for end in self.ends for interface in end.addresses]

    def address(self, version: int) -> Address:
        """Its first address of an IP version (4 or 6). `UsageError` when it has none."""
        for address in self.addresses:
            if address.version == version:
                return address
        raise UsageError(f"take an IPv{version} address of {self.name}", "it has none")

    def socket(
        self,
        family: int = AF_INET,
        kind: int = SOCK_STREAM,
        protocol: int = 0,
    ) -> Socket:
        """A plain blocking socket, born in this host's namespace and cgroup. `OSError` as usual."""
        return self.namespace.socket(family, kind, protocol)

    def listen(self, family: int = AF_INET, port: int = 0, backlog: int = 128) -> Socket:
        """A listener on every address of the family; an IPv6 one takes IPv4 clients too.

        Port 0: the kernel chooses. accept() gives up after the usual deadline (`TimeoutError`).
        """
        listener = self.socket(family)
        try:
            listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            if family == AF_INET6:
                listener.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
            listener.bind(("", port))
            listener.listen(backlog)
            listener.settimeout(DEADLINE_S)
        except BaseException:
            listener.close()
            raise
        return listener

    def connect(self, address: Address | str, port: int, *, sock: Socket | None = None) -> Socket:
        """Connects a new socket, or the given one of this host; returns it connected.

        `OSError` as from connect(), `TimeoutError` after the usual deadline. A socket that was
        given stays open when it fails.
        """
        family = AF_INET6 if ":" in str(address) else AF_INET
        with ExitStack() as undo:
            client = sock or undo.enter_context(self.socket(family))
            client.settimeout(DEADLINE_S)
            for hook in self.before_connect:
                hook(client, unmapped(str(address)), port)
            client.connect((str(address), port))
            undo.pop_all()
        return client

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] = "/",
        stdin: int,
        stdout: int,
        stderr: int,
    ) -> Command:
        """Starts a command on this host, its three streams given as descriptors.

        `UsageError` when it cannot be executed.
        """
        try:
            status, pid, pidfd = self.namespace.spawn(
                argv, os.environ if env is None else env, os.fspath(cwd), (stdin, stdout, stderr)
            )
        except OSError as error:
            raise UsageError(f"run {argv[0]} on {self.name}", str(error.strerror or error)) from error
        return Command(tuple(argv), status, pid, pidfd)

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        data: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] = "/",
        deadline: float = COMMAND_DEADLINE_S,
    ) -> Completed:
        """Runs a command on this host to its end; ``data`` is its stdin.

        `CommandFailed` when it ends with another code than 0 (unless ``check=False``),
        `WaitExpired` after ``deadline`` seconds; it is killed then.
        """
        with ExitStack() as stack:
            streams = []
            for name in ("stdin", "stdout", "stderr"):
                streams.append(os.memfd_create(name, os.MFD_CLOEXEC))
                stack.callback(os.close, streams[-1])
            os.pwrite(streams[0], data.encode(), 0)
            stdin, stdout, stderr = streams
            command = self.spawn(argv, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr)
            with command:
                code = command.wait(deadline)
            texts = [
                os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace") for fd in (stdout, stderr)
            ]
        done = Completed(tuple(argv), code, *texts)
        if check and code != 0:
            raise CommandFailed(f"{' '.join(argv)} on {self.name} ended with {code}\n{done.stderr}".rstrip())
        return done

    def tcp_sockets(self) -> list[TcpSocket]:
        """The kernel's word on every TCP socket of this host, time-wait ones included."""
        if self._diag is None:
            self._diag = prepare(self.socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG))
            self._undo.callback(self._diag.close)
        return tcp_sockets(self._diag)

    def close(self) -> None:
        self._undo.close()
        self.namespace.close()
