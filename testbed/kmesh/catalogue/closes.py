"""Ways to close a connection by its own means. Each asserts what the other side sees of it."""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Sequence
from functools import partial

from testbed.kmesh.catalogue.stage import Stage, await_data, fails_with, is_listener
from testbed.kmesh.catalogue.traffic import Talk
from testbed.lab.host import Host
from testbed.lab.owner import owned_by_a_process
from testbed.lab.sockets import reset

_AFTER = b"after the half close"


def sees_end(sock: socket.socket) -> None:
    """The peer closed its side: everything is read, and nothing follows."""
    if not is_listener(sock):
        assert sock.recv(1) == b""


def sees_reset(sock: socket.socket) -> None:
    """The peer's side was reset."""
    if not is_listener(sock):
        fails_with(errno.ECONNRESET, "recv() after a RST", lambda: sock.recv(1))


def nothing(_stage: Stage, _talks: Sequence[Talk]) -> None:
    """There is no connection."""


def client_first(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        talk.client.close()
        sees_end(talk.server)
        talk.server.close()


def server_first(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        # what nobody accepted is reset with its listener
        sees = sees_reset if is_listener(talk.server) else sees_end
        talk.server.close()
        sees(talk.client)
        talk.client.close()


def client_half(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        talk.client.shutdown(socket.SHUT_WR)
        sees_end(talk.server)
        talk.answer(_AFTER)
        talk.server.close()
        sees_end(talk.client)


def server_half(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        talk.server.shutdown(socket.SHUT_WR)
        sees_end(talk.client)
        talk.say(_AFTER)
        talk.client.close()
        sees_end(talk.server)


def client_linger(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        reset(talk.client)
        sees_reset(talk.server)


def server_linger(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        reset(talk.server)
        sees_reset(talk.client)


def _leave_unread(sender: socket.socket, receiver: socket.socket) -> None:
    sender.sendall(b"never read")
    await_data(receiver)
    receiver.close()
    sees_reset(sender)


def client_unread(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        _leave_unread(talk.server, talk.client)


def server_unread(_stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        _leave_unread(talk.client, talk.server)


def _send_to_the_closed(host: Host, closed: socket.socket, sender: socket.socket) -> None:
    """The host that has closed has no socket any more that the data could be for."""
    closed.close()
    sees_end(sender)
    before = host.counters()["TcpOutRsts"]
    sender.sendall(b"too late")
    assert host.counters()["TcpOutRsts"] == before + 1
    fails_with(errno.EPIPE, "send() after a FIN and a RST", lambda: sender.send(b"x"))


def client_kernel(stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        _send_to_the_closed(stage.client, talk.client, talk.server)


def server_kernel(stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        _send_to_the_closed(stage.server, talk.server, talk.client)


def client_destroyed(stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        stage.destroy(stage.client, talk.client)
        fails_with(errno.ECONNABORTED, "recv() of a destroyed socket", partial(talk.client.recv, 1))
        sees_reset(talk.server)


def server_destroyed(stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        stage.destroy(stage.server, talk.server)
        sees_reset(talk.client)


def _kill_the_owner(host: Host, sock: socket.socket) -> None:
    with owned_by_a_process(host, sock) as process:
        assert process.kill() == -signal.SIGKILL


def client_killed(stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        _kill_the_owner(stage.client, talk.client)
        sees_end(talk.server)


def server_killed(stage: Stage, talks: Sequence[Talk]) -> None:
    for talk in talks:
        sees = sees_reset if is_listener(talk.server) else sees_end
        _kill_the_owner(stage.server, talk.server)
        sees(talk.client)
