"""Ways for a connection to end that take a wire that is cut, or a port pair that is used again."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Sequence

from testbed.kernel.counters import grown
from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.catalogue.closes import sees_end
from testbed.kmesh.catalogue.stage import Stage, bind, fails_with
from testbed.kmesh.catalogue.traffic import Talk
from testbed.lab.gate import Gate, cut
from testbed.lab.host import Host
from testbed.lab.sockets import reset

_TCP_USER_TIMEOUT = 18  # in milliseconds
_MOST_PROBES = 127


def both_at_once(stage: Stage, talks: Sequence[Talk]) -> None:
    """Two FINs cross."""
    ends = [(stage.client, talk.client) for talk in talks] + [(stage.server, talk.server) for talk in talks]
    with Gate(stage.client, stage.server) as gate:
        for _, sock in ends:
            sock.shutdown(socket.SHUT_WR)
        gate.pass_on()
        for host, sock in ends:
            assert stage.kernels_word(host, sock).state is TcpState.CLOSING
    for _, sock in ends:
        sees_end(sock)


def _probe_at_once(stage: Stage, host: Host, probes: int) -> None:
    """A host's idle sockets with SO_KEEPALIVE are probed a jiffy after another."""
    stage.sysctl(host, tcp_keepalive_time=0, tcp_keepalive_intvl=0, tcp_keepalive_probes=probes)


def _gives_up(sock: socket.socket) -> None:
    fails_with(errno.ETIMEDOUT, "recv() while the peer is silent", lambda: sock.recv(1))
    sock.close()


def keepalive(stage: Stage, talks: Sequence[Talk]) -> None:
    """The server does not answer the client's probe. It never learns of the client's end."""
    _probe_at_once(stage, stage.client, probes=1)
    with Gate(stage.client, stage.server) as gate:
        for talk in talks:
            talk.client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for talk in talks:
            _gives_up(talk.client)
        gate.lose()
    for talk in talks:
        talk.server.close()  # its FIN is answered with a RST


def user_timeout(stage: Stage, talks: Sequence[Talk]) -> None:
    """Probes without an answer, and a server that bears that for a millisecond."""
    _probe_at_once(stage, stage.server, probes=_MOST_PROBES)
    before = stage.server.counters()
    with Gate(stage.client, stage.server) as gate:
        for talk in talks:
            talk.server.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, 1)
            talk.server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for talk in talks:
            _gives_up(talk.server)
        gate.lose()
    counted = grown(before, stage.server.counters())
    assert counted["TcpExtTCPKeepAlive"] < _MOST_PROBES, "it was not the number of probes"
    for talk in talks:
        talk.client.close()


def client_gone(stage: Stage, talks: Sequence[Talk]) -> None:
    """The client's host vanishes without a word: no FIN, no RST, and soon no interface."""
    cut(stage.client, stage.server)
    for talk in talks:
        reset(talk.client)
    stage.pair.lab.settle()  # its last callbacks have run
    stage.client.close()
    _probe_at_once(stage, stage.server, probes=1)
    for talk in talks:
        talk.server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for talk in talks:
        _finds_nobody(talk.server)


def _finds_nobody(sock: socket.socket) -> None:
    """With its host, the link goes and the route by it: soon, so that either answer is right."""
    known = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
    fails_with(known, "recv() from a host that is gone", lambda: sock.recv(1))


def time_wait(stage: Stage, talks: Sequence[Talk]) -> None:
    """The server closed first and waits; the same four numbers connect again meanwhile."""
    for talk in talks:
        talk.server.close()
        sees_end(talk.client)
        talk.client.close()
        stage.pair.lab.settle()
        assert _states_of(stage, talk) == [TcpState.TIME_WAIT]
        _await_tick(stage)
        sock = stage.client_socket()
        bind(sock, talk.tuple.src, talk.tuple.sport)
        with stage.listen(talk.tuple.dport) as listener:
            again = stage.connect(listener, sock)
        assert again.tuple == talk.tuple
        assert _states_of(stage, talk) == [TcpState.ESTABLISHED]
        again.close()


def _states_of(stage: Stage, talk: Talk) -> list[TcpState]:
    """The states of the server's sockets that have this connection's ports."""
    ports = (talk.tuple.dport, talk.tuple.sport)
    sockets = stage.server.tcp_sockets()
    return [each.state for each in sockets if (each.local_port, each.remote_port) == ports]


def _await_tick(stage: Stage) -> None:
    """Timestamps count milliseconds of this clock; a SYN with the FIN's would be no new connection's."""
    closed = time.monotonic_ns() // 1_000_000
    stage.pair.lab.eventually(
        lambda: time.monotonic_ns() // 1_000_000 > closed, awaited="the next millisecond of TCP timestamps"
    )
