"""The other side of a host: a small process in its namespace and cgroup that makes sockets there.

A socket keeps the network namespace and cgroup of its birth, so a broker makes it and hands the
descriptor over (SCM_RIGHTS). Brokers are forked from one spawner, which is started with a bare
interpreter and imports only the standard library: forking costs by the size of what is forked.

The spawner makes the namespace too, and forks the broker in it: of the two it is the one whose pages
are all its own already, and what is left for the broker to do goes on while its links are made.

Lifetimes: a broker ends when its control socket closes and when the spawner dies; the spawner ends
when its own control socket closes. Both sockets are held by the testbed's process alone, so nothing
outlives it, however it ends.

Messages are lists in SOCK_SEQPACKET packets, by `marshal`: both ends are of one Python. A request is
``[number, verb, …]``, its reply ``[number, 0, …]`` or ``[number, errno, text]``: so the reply to a
request that somebody has given up (Ctrl-C) is not taken for the next one's. The descriptors that belong
to a reply come in a packet before it, ``["fds"]``: when the reply is sent, every copy on this side is
closed. Else a socket could outlive the close() of whom it was handed to, by as long as it pleases the
scheduler.
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import struct
from _signal import SIG_DFL, SIGCHLD, SIGINT, SIGKILL, SIGPIPE, SIGXFSZ, signal  # type: ignore[import-not-found]  # signal is several times its size
from _socket import MSG_CMSG_CLOEXEC, MSG_CTRUNC, SCM_RIGHTS, SOL_SOCKET, socket

from testbed.kernel.syscalls import die_with_parent, pidfd_send_signal, raise_effective, set_capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:  # else the modules would take room in every broker
    from collections.abc import Callable, Sequence
    from typing import Any

    from testbed.kernel.syscalls import Capabilities

    Handler = Callable[..., tuple[list[object], list[int]]]

PACKET = 64 * 1024
FDS = 64
_RIGHTS = 16 + 4 * FDS  # CMSG_SPACE of so many descriptors
_MOST_FD = 0x7FFFFFFF


def send(sock: socket, message: Sequence[object], fds: Sequence[int] = ()) -> None:
    """Sends one message, with copies of descriptors. `OSError` (E2BIG) when it is too long."""
    data = marshal.dumps(list(message))
    if len(data) > PACKET:
        raise OSError(errno.E2BIG, f"a message of {len(data)} bytes (at most {PACKET})")
    rights = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    sock.sendmsg([data], rights)


class Truncated(OSError):
    """EMFILE: ``message`` came, and there was no room for its descriptors; none of them is open."""

    def __init__(self, message: list[Any]) -> None:
        super().__init__(errno.EMFILE, os.strerror(errno.EMFILE))
        self.message = message


def receive(sock: socket) -> tuple[list[Any], list[int]]:
    """Receives one message and its descriptors (close-on-exec); `EOFError` when the peer is gone."""
    data, rights, flags, _ = sock.recvmsg(PACKET, _RIGHTS, MSG_CMSG_CLOEXEC)
    fds = [fd for _, _, packed in rights for fd in struct.unpack(f"{len(packed) // 4}i", packed)]
    if not data:
        raise EOFError
    if flags & MSG_CTRUNC:
        close_all(fds)
        raise Truncated(marshal.loads(data))  # noqa: S302 (as below)
    return marshal.loads(data), fds  # noqa: S302 (both ends are ours)


def close_all(fds: Sequence[int]) -> None:
    """Closes descriptors."""
    for fd in fds:
        os.close(fd)


def hand_over(sock: socket, fds: Sequence[int]) -> None:
    """Sends descriptors and closes them here."""
    try:
        send(sock, ["fds"], fds)
    finally:
        close_all(fds)


def serve(sock: socket, handlers: dict[str, Handler]) -> None:
    """Answers requests until the peer is gone.

    A handler takes the request's descriptors and arguments; it returns the reply's values and the
    descriptors to hand over. Its OSError is the reply.
    """
    while True:
        try:
            _answer(sock, handlers)
        except (EOFError, ConnectionError):  # the peer is gone, whatever we were about
            return


def _answer(sock: socket, handlers: dict[str, Handler]) -> None:
    try:
        (number, verb, *arguments), fds = receive(sock)
    except Truncated as error:
        send(sock, [error.message[0], error.errno, error.strerror])
        return
    try:
        try:
            values, made = handlers[verb](fds, *arguments)
        finally:
            close_all(fds)
        if made:
            hand_over(sock, made)
        send(sock, [number, 0, *values])
    except OSError as error:
        send(sock, [number, error.errno or errno.EIO, error.strerror or str(error)])


def _make_sockets(
    _fds: list[int], family: int, kind: int, protocol: int, count: int
) -> tuple[list[object], list[int]]:
    made: list[int] = []
    try:
        while len(made) < count:
            made.append(socket(family, kind, protocol).detach())
    except OSError:
        close_all(made)
        raise
    return [], made


def _write_sysctl(_fds: list[int], values: dict[str, str]) -> tuple[list[object], list[int]]:
    set_sysctls(values)
    return [], []


def set_sysctls(values: dict[str, str]) -> None:
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
            signal(SIGCHLD, SIG_DFL)
            die_with_parent()
            status = socket(fileno=fds[0])
            try:
                _run_command(status, fds[1:4], argv, env, cwd)
            except OSError as error:  # no descriptor or no process is left for it
                send(status, [error.errno or errno.EIO, error.strerror or str(error)])
        finally:
            os._exit(0)  # never back into the broker's loop
    return [], []


def _run_command(status: socket, stdio: list[int], argv: list[str], env: dict[str, str], cwd: str) -> None:
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
        pidfd_send_signal(pidfd, SIGKILL)  # whoever waited for it is gone
        poll.unregister(status)
    send(status, [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])])


def _execute(write_end: int, stdio: list[int], argv: list[str], env: dict[str, str], cwd: str) -> None:
    try:
        die_with_parent()
        os.setsid()
        for number in (SIGINT, SIGPIPE, SIGXFSZ):
            signal(number, SIG_DFL)  # the spawner and Python ignore them, an exec keeps that
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        raise_effective()  # a command has all the rights that the testbed's process has
        os.chdir(cwd)
        os.execvpe(argv[0], argv, env)  # noqa: S606 (a list of words; no shell)
    except OSError as error:
        os.write(write_end, str(error.errno).encode())
    finally:
        os._exit(127)


def be_broker(control: int, unready: int, rights: Capabilities) -> None:
    """In the namespace and cgroup of its birth. Of what it inherited ``unready`` is closed last of all.

    Every line of Python touches pages that have to be copied first (2 µs each), so until then there are few.
    """
    try:
        die_with_parent()
        set_capabilities(rights)
        os.closerange(3, min(control, unready))
        os.closerange(min(control, unready) + 1, max(control, unready))
        os.closerange(max(control, unready) + 1, _MOST_FD)
    except OSError as error:
        os.write(unready, b"%d\n" % (error.errno or errno.EIO))
        return
    os.close(unready)
    serve(socket(fileno=control), {"sockets": _make_sockets, "sysctl": _write_sysctl, "spawn": _spawn})
