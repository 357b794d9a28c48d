"""The other side of a host: a small process in its namespace and cgroup that makes sockets there.

A socket keeps the network namespace and cgroup of its birth, so a broker makes it and hands the
descriptor over (SCM_RIGHTS). Brokers are forked from one spawner, which is started with a bare
interpreter and imports only the standard library: forking costs by the size of what is forked.

Lifetimes: a broker ends when its control socket closes and when the spawner dies; the spawner ends
when its own control socket closes. Both sockets are held by the testbed's process alone, so nothing
outlives it, however it ends.

Messages are JSON lists in SOCK_SEQPACKET packets. A reply is ``[0, …]`` or ``[errno, text]``.
"""

import errno
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from testbed.kernel.syscalls import clone_into, die_with_parent, pidfd_send_signal

PACKET = 256 * 1024
FDS = 8


def send(sock: socket.socket, message: Sequence[object], fds: Sequence[int] = ()) -> None:
    """Sends one message, with copies of descriptors."""
    socket.send_fds(sock, [json.dumps(message).encode()], list(fds))


def receive(sock: socket.socket) -> tuple[list[Any], list[int]]:
    """Receives one message and its descriptors (close-on-exec); `EOFError` when the peer is gone."""
    data, fds, _, _ = socket.recv_fds(sock, PACKET, FDS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError
    return json.loads(data), fds


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _serve(sock: socket.socket, handlers: dict[str, Callable[..., None]]) -> None:
    """Answers requests until the peer is gone. A handler replies itself; its OSError is the reply."""
    while True:
        try:
            (verb, *arguments), fds = receive(sock)
        except (EOFError, ConnectionResetError):
            return
        try:
            handlers[verb](sock, fds, *arguments)
        except OSError as error:
            send(sock, [error.errno or errno.EIO, str(error)])
        finally:
            _close(fds)


def _make_socket(sock: socket.socket, _fds: list[int], family: int, kind: int, protocol: int) -> None:
    with socket.socket(family, kind, protocol) as made:
        send(sock, [0], [made.fileno()])


def _write_sysctl(sock: socket.socket, _fds: list[int], values: dict[str, str]) -> None:
    _set_sysctls(values)
    send(sock, [0])


def _set_sysctls(values: dict[str, str]) -> None:
    """/proc/sys/net shows the namespace of the process that opens it."""
    for name, value in values.items():
        fd = os.open(f"/proc/sys/{name}", os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def _spawn(
    sock: socket.socket, fds: list[int], argv: list[str], env: dict[str, str], cwd: str
) -> None:
    """Runs a command. fds: a socket for [pid] and [exit status], then stdin, stdout, stderr."""
    if os.fork() == 0:
        sock.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent()
        with socket.socket(fileno=fds[0]) as status:
            _run_command(status, fds[1:4], argv, env, cwd)
        os._exit(0)
    send(sock, [0])


def _run_command(
    status: socket.socket, stdio: list[int], argv: list[str], env: dict[str, str], cwd: str
) -> None:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _execute(write_end, stdio, argv, env, cwd)
    os.close(write_end)
    _close(stdio)
    failure = os.read(read_end, 16)  # empty as soon as the exec has closed the other end
    if failure:
        os.waitpid(pid, 0)
        send(status, [int(failure), os.strerror(int(failure))])
        return
    send(status, [0, pid])
    pidfd = os.pidfd_open(pid)
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
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(write_end, str(error.errno).encode())
    finally:
        os._exit(127)


def _be_broker(control: socket.socket, sysctls: dict[str, str]) -> None:
    die_with_parent()
    try:
        _set_sysctls(sysctls)
        netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        send(control, [error.errno, str(error)])
        return
    send(control, [0, os.getpid()], [netns])
    os.close(netns)
    _serve(control, {"socket": _make_socket, "sysctl": _write_sysctl, "spawn": _spawn})


def _fork_broker(sock: socket.socket, fds: list[int], sysctls: dict[str, str]) -> None:
    cgroup, control_fd = fds
    pid, pidfd = clone_into(cgroup, new_netns=True)
    if pid == 0:
        try:
            sock.close()
            os.close(cgroup)
            with socket.socket(fileno=control_fd) as control:
                _be_broker(control, sysctls)
        except BrokenPipeError:
            pass  # the testbed ended meanwhile
        finally:
            os._exit(0)
    try:
        send(sock, [0, pid], [pidfd])
    finally:
        os.close(pidfd)


def main(control_fd: int) -> None:
    """The spawner: forks a broker for each request, until its control socket closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # brokers leave no zombies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the testbed's; we end with it
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared with the brokers
    with socket.socket(fileno=control_fd) as sock:
        _serve(sock, {"broker": _fork_broker})


if __name__ == "__main__":
    main(int(sys.argv[1]))
