"""The other side of a host: a small process in its namespace and cgroup that makes sockets there.

A socket keeps the network namespace and cgroup of its birth, so a broker makes it and hands the
descriptor over (SCM_RIGHTS). Brokers are forked from one spawner, which is started with a bare
interpreter and imports only the standard library: forking costs by the size of what is forked.

Lifetimes: a broker ends when its control socket closes and when the spawner dies; the spawner ends
when its own control socket closes. Both sockets are held by the testbed's process alone, so nothing
outlives it, however it ends.

Messages are lists in SOCK_SEQPACKET packets, by `marshal`: both ends are of one Python. A reply is
``[0, …]`` or ``[errno, text]``. The descriptors that belong to it come in a packet before it,
``["fds"]``: when the reply is sent, every copy on this side is closed. Else a socket could outlive
the close() of whom it was handed to, by as long as it pleases the scheduler.
"""

import errno
import gc
import marshal
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from testbed.kernel.syscalls import CLONE_NEWNET, clone_into, die_with_parent, pidfd_send_signal, unshare

PACKET = 64 * 1024
FDS = 64
_NETLINK_SOCK_DIAG = 4


def send(sock: socket.socket, message: Sequence[object], fds: Sequence[int] = ()) -> None:
    """Sends one message, with copies of descriptors. `OSError` (E2BIG) when it is too long."""
    data = marshal.dumps(list(message))
    if len(data) > PACKET:
        raise OSError(errno.E2BIG, f"a message of {len(data)} bytes (at most {PACKET})")
    socket.send_fds(sock, [data], list(fds))


def receive(sock: socket.socket) -> tuple[list[Any], list[int]]:
    """Receives one message and its descriptors (close-on-exec); `EOFError` when the peer is gone."""
    data, fds, _, _ = socket.recv_fds(sock, PACKET, FDS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError
    return marshal.loads(data), fds  # noqa: S302 (both ends are ours)


def close_all(fds: Sequence[int]) -> None:
    """Closes descriptors."""
    for fd in fds:
        os.close(fd)


def hand_over(sock: socket.socket, fds: Sequence[int]) -> None:
    """Sends descriptors and closes them here."""
    try:
        send(sock, ["fds"], fds)
    finally:
        close_all(fds)


Handler = Callable[..., tuple[list[object], list[int]]]


def _serve(sock: socket.socket, handlers: dict[str, Handler]) -> None:
    """Answers requests until the peer is gone.

    A handler takes the request's descriptors and arguments; it returns the reply's values and the
    descriptors to hand over. Its OSError is the reply.
    """
    with suppress(EOFError, ConnectionError):  # the peer is gone, whatever we were about
        while True:
            (verb, *arguments), fds = receive(sock)
            try:
                try:
                    values, made = handlers[verb](fds, *arguments)
                finally:
                    close_all(fds)
                if made:
                    hand_over(sock, made)
                send(sock, [0, *values])
            except OSError as error:
                send(sock, [error.errno or errno.EIO, error.strerror or str(error)])


def _make_sockets(
    _fds: list[int], family: int, kind: int, protocol: int, count: int
) -> tuple[list[object], list[int]]:
    made: list[int] = []
    try:
        while len(made) < count:
            made.append(socket.socket(family, kind, protocol).detach())
    except OSError:
        close_all(made)
        raise
    return [], made


def _write_sysctl(_fds: list[int], values: dict[str, str]) -> tuple[list[object], list[int]]:
    _set_sysctls(values)
    return [], []


def _set_sysctls(values: dict[str, str]) -> None:
    """/proc/sys/net shows the namespace of the process that opens it."""
    for name, value in values.items():
        fd = os.open(f"/proc/sys/{name}", os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def _spawn(fds: list[int], argv: list[str], env: dict[str, str], cwd: str) -> tuple[list[object], list[int]]:
    """Runs a command. fds: a socket for its pidfd, [0, pid] and [exit status], then stdin, stdout, stderr."""
    if os.fork() == 0:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent()
            with socket.socket(fileno=fds[0]) as status:
                _run_command(status, fds[1:4], argv, env, cwd)
        finally:
            os._exit(0)  # never back into the broker's loop
    return [], []


def _run_command(
    status: socket.socket, stdio: list[int], argv: list[str], env: dict[str, str], cwd: str
) -> None:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _execute(write_end, stdio, argv, env, cwd)
    os.close(write_end)
    close_all(stdio)
    failure = os.read(read_end, 16)  # empty as soon as the exec has closed the other end
    if failure:
        os.waitpid(pid, 0)
        send(status, [int(failure), os.strerror(int(failure))])
        return
    pidfd = os.pidfd_open(pid)
    hand_over(status, [os.dup(pidfd)])
    send(status, [0, pid])
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(status, select.POLLHUP)
    while pidfd not in [fd for fd, _ in poll.poll()]:
        pidfd_send_signal(pidfd, signal.SIGKILL)  # whoever waited for it is gone
        poll.unregister(status)
    send(status, [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])])


def _execute(write_end: int, stdio: list[int], argv: list[str], env: dict[str, str], cwd: str) -> None:
    try:
        die_with_parent()
        os.setsid()
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # the spawner and Python ignore them, an exec keeps that
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, env)  # noqa: S606 (a list of words; no shell)
    except OSError as error:
        os.write(write_end, str(error.errno).encode())
    finally:
        os._exit(127)


def _be_broker(control: socket.socket, sysctls: dict[str, str]) -> None:
    die_with_parent()
    with suppress(ConnectionError):
        try:
            unshare(CLONE_NEWNET)  # here and not in the clone: the next broker is forked meanwhile
            _set_sysctls(sysctls)
            route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
            netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            send(control, [error.errno, str(error)])
            return
        send(control, [0, os.getpid()], [netns, route.fileno(), diag.fileno()])
        route.close()
        diag.close()
        os.close(netns)
    _serve(control, {"sockets": _make_sockets, "sysctl": _write_sysctl, "spawn": _spawn})


def _fork_brokers(
    spawner: socket.socket, fds: list[int], sysctls: dict[str, str]
) -> tuple[list[object], list[int]]:
    """Forks a broker for each (cgroup, control socket) in ``fds``; hands their pidfds over, in order.

    When one cannot be forked those before it end too, as soon as their control sockets close.
    """
    pidfds: list[int] = []
    try:
        for cgroup, control in zip(fds[::2], fds[1::2], strict=True):
            pid, pidfd = clone_into(cgroup)
            if pid == 0:
                try:
                    spawner.close()
                    close_all([fd for fd in (*fds, *pidfds) if fd != control])
                    with socket.socket(fileno=control) as sock:
                        _be_broker(sock, sysctls)
                finally:
                    os._exit(0)
            pidfds.append(pidfd)
    except OSError:
        close_all(pidfds)
        raise
    return [], pidfds


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
    broker says so.
    """
    with suppress(OSError):
        unshare(CLONE_NEWNET)
        _set_sysctls({"net/ipv4/tcp_child_ehash_entries": str(buckets)})


def main(control_fd: int, buckets: int) -> None:
    """The spawner: forks brokers, until its control socket closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # brokers leave no zombies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the testbed's; we end with it
    _smaller_tables(buckets)
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared with the brokers
    with socket.socket(fileno=control_fd) as sock:
        _serve(sock, {"brokers": partial(_fork_brokers, sock), "let_go": _let_go})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
