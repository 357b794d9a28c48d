"""A host: a network namespace, a cgroup, and plain sockets and commands in both."""

from __future__ import annotations

import errno
import ipaddress
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    MSG_FASTOPEN,
    SO_REUSEADDR,
    SO_SNDTIMEO,
    SOCK_STREAM,
    SOL_SOCKET,
)
from socket import socket as Socket

from testbed.acquired import acquired
from testbed.errors import UsageError, errno_name
from testbed.kernel.counters import counters
from testbed.kernel.links import End, add_address, await_ready
from testbed.kernel.netlink import execute
from testbed.kernel.sockdiag import TcpSocket, destroy, socket_cookie, tcp_sockets
from testbed.kernel.sockstorage import socket_storages
from testbed.kernel.spawner import Namespace
from testbed.lab.command import COMMAND_DEADLINE_S, Command, CommandFailed, Completed
from testbed.lab.family import Address, unmapped
from testbed.lab.wait import DEADLINE_S

__all__ = ["BeforeConnect", "Command", "CommandFailed", "Completed", "Host"]

_SO_NETNS_COOKIE = 71  # Linux 5.14; not in Python's socket module
BeforeConnect = Callable[[Socket, Address, int], None]
"""Called with a client's socket and where it is about to connect to."""


class Host:
    """One host of a lab. Made by the lab; its sockets are born in its namespace and cgroup."""

    def __init__(self, name: str, namespace: Namespace, cgroup_fd: int, ends: Sequence[End] = ()) -> None:
        self.name = name
        self.namespace = namespace
        self.cgroup_fd = cgroup_fd
        self.ends: list[End] = list(ends)
        self.before_connect: list[BeforeConnect] = []
        self.is_gone = False
        self.wrap: Callable[[Socket], Socket] | None = None
        """Makes what this host hands out of a new plain socket, where somebody takes down its calls."""
        self.on_address: Callable[[End], None] | None = None
        """Called with an end that has an address more: on a bridge its neighbours must be told."""
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
        return [address for end in self.ends for address in end.ips]

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
        made = self.namespace.socket(family, kind, protocol)
        return made if self.wrap is None else self.wrap(made)

    def sockets(self, count: int, family: int = AF_INET, kind: int = SOCK_STREAM) -> list[Socket]:
        """As many of them, of at most 64: at the price of one."""
        made = self.namespace.sockets(count, family, kind)
        return made if self.wrap is None else [self.wrap(each) for each in made]

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

        An IPv6 socket goes to ``::ffff:a.b.c.d`` where the address is IPv4. `OSError` as from
        connect(), `TimeoutError` after the usual deadline. A socket that was given stays open when
        it fails.
        """
        with ExitStack() as undo:
            client = sock or undo.enter_context(self.socket(_family_of(address)))
            with _blocking(client):
                client.connect(self._about_to_connect(client, address, port))
            undo.pop_all()
        return client

    def begin_connect(self, address: Address | str, port: int, sock: Socket) -> None:
        """Begins to connect a socket of this host, which no longer blocks from then on.

        It is writable when that has ended; SO_ERROR then says how. `OSError` when it ends at once.
        """
        sock.setblocking(False)
        code = sock.connect_ex(self._about_to_connect(sock, address, port))
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, f"connect {self.name} to {address} port {port}: {errno_name(code)}")

    def connect_with(self, data: bytes, address: Address | str, port: int, sock: Socket) -> int:
        """Connects a socket of this host by sending: TCP Fast Open (``MSG_FASTOPEN``, RFC 7413).

        Returns how much of the data is on its way: in the SYN where both hosts allow it (the sysctl
        ``tcp_fastopen``), else behind the handshake. Errors as `connect`.
        """
        with _blocking(sock):
            return sock.sendto(data, MSG_FASTOPEN, self._about_to_connect(sock, address, port))

    def _about_to_connect(self, sock: Socket, address: Address | str, port: int) -> tuple[str, int]:
        """Tells the hooks. Returns the address as connect() takes it."""
        is_mapped = sock.family == AF_INET6 and _family_of(address) == AF_INET
        for hook in self.before_connect:
            hook(sock, unmapped(str(address)), port)
        return (f"::ffff:{address}" if is_mapped else str(address)), port

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
                acquired("memory", streams[-1])
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
        """The kernel's word on every TCP socket of this host, also in TIME_WAIT; none once it is gone."""
        return [] if self.is_gone else tcp_sockets(self.namespace.diag)

    def socket_storages(self, map_fd: int) -> dict[int, bytes]:
        """The values of a SK_STORAGE map on this host's TCP sockets, by the sockets' cookies."""
        return {} if self.is_gone else socket_storages(self.namespace.diag, map_fd)

    def destroy(self, sock: Socket) -> None:
        """Aborts a TCP socket of this host from outside, as ``ss --kill`` does.

        `OSError`: EOPNOTSUPP where the kernel has no CONFIG_INET_DIAG_DESTROY.
        """
        cookie = socket_cookie(sock)
        for each in self.tcp_sockets():
            if each.cookie == cookie:
                destroy(self.namespace.diag, each)
                return
        raise UsageError(f"abort {sock!r}", f"{self.name} has no such TCP socket")

    def add_address(self, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
        """Gives its first interface one address more, for who binds to it; returns when it can be used.

        Sockets that are not bound keep to the first address.
        """
        number, old = next((number, end) for number, end in enumerate(self.ends) if end.port_of is None)
        end = replace(old, addresses=(*old.addresses, interface))
        execute(self.namespace.route, [add_address(old, interface, preferred=False)])
        await_ready(self.namespace.route, [end])
        self.ends[number] = end
        if self.on_address is not None:
            self.on_address(end)

    def counters(self) -> dict[str, int]:
        """What the kernel has counted in this namespace, by nstat's names."""
        return counters(self.namespace.pid)

    def close(self) -> None:
        """Lets go of its namespace and ends what runs on it. The lab bears that."""
        self.is_gone = True
        self.namespace.close()


@contextmanager
def _blocking(sock: Socket) -> Iterator[None]:
    """A socket whose connect() blocks: one that was refused can be followed by another.

    A socket with a timeout of Python's does not block to the kernel. There, a refusal is told by
    SO_ERROR, and the next connect() is told once more that the one before came to nothing.
    """
    sock.settimeout(None)
    sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, struct.pack("ll", int(DEADLINE_S), 0))
    try:
        yield
    except BlockingIOError as error:  # EINPROGRESS
        raise TimeoutError(f"connect(): no answer within {DEADLINE_S:g} s") from error
    finally:
        sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, struct.pack("ll", 0, 0))
        sock.settimeout(DEADLINE_S)


def _family_of(address: Address | str) -> int:
    return AF_INET6 if ":" in str(address) else AF_INET
