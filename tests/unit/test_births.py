"""Namespaces and brokers the spawner is asked for: whatever becomes of one, nothing is left of others."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from socket import AF_NETLINK, SOCK_RAW
from socket import socket as Socket

import pytest

from testbed.errors import TestbedError
from testbed.kernel import broker, nursery
from testbed.kernel.line import Line, control_pair
from testbed.kernel.spawner import Births, Spawner
from testbed.kernel.syscalls import only_effective

NAMES = [f"h{number}" for number in range(broker.FDS // 3 + 1)]  # of two requests


def let_go(sock: Socket) -> None:
    sock.close()


def open_descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")  # noqa: PTH208 (their numbers alone)


@pytest.fixture
def before() -> list[str]:
    return open_descriptors()


@pytest.fixture
def spawner(before: list[str]) -> Iterator[tuple[Line, Socket]]:
    """Both ends of the line to it; nothing else is open when they are closed."""
    ours, theirs = control_pair()
    with theirs, Line(ours, "the spawner") as line:
        yield line, theirs
    assert open_descriptors() == before


def grant(theirs: Socket, number: int, count: int) -> None:
    """Answers with as many namespaces: three sockets, of which one stands for the namespace itself."""
    broker.receive(theirs)
    with ExitStack() as stack:
        sockets = [stack.enter_context(Socket(AF_NETLINK, SOCK_RAW)) for _ in range(3)]
        broker.send(theirs, ["fds"], [each.fileno() for each in sockets] * count)
    broker.send(theirs, [number, 0])


def test_brokers_that_cannot_be_forked(spawner: tuple[Line, Socket], before: list[str]) -> None:
    """Those of the other request are there, and are ended."""
    line, theirs = spawner
    births = Births(line, NAMES, {}, let_go)
    grant(theirs, 0, len(NAMES) - 1)
    grant(theirs, 1, 1)
    broker.send(theirs, [2, errno.EAGAIN, "no"])
    with Ended() as pidfd:
        broker.send(theirs, ["fds"], [pidfd])
    broker.send(theirs, [3, 0, 1])
    with pytest.raises(TestbedError, match=r"fork the brokers of h0, .*EAGAIN"):  # noqa: SIM117
        with births.forked(dict.fromkeys(NAMES, theirs.fileno())):
            pass
    broker.send(theirs, [4, 0])
    assert line.ask("more") == ([], [])
    assert len(open_descriptors()) == len(before) + len(spawner)


class Ended:
    """The pidfd of a process that has ended."""

    def __enter__(self) -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        self._pidfd = os.pidfd_open(pid)
        os.waitpid(pid, 0)
        return self._pidfd

    def __exit__(self, *_: object) -> None:
        os.close(self._pidfd)


def test_a_spawner_that_is_gone_before_it_forks(spawner: tuple[Line, Socket]) -> None:
    line, theirs = spawner
    births = Births(line, NAMES[:2], {}, let_go)
    grant(theirs, 0, 2)
    theirs.close()
    with pytest.raises(TestbedError, match="ask the spawner: it is gone"):  # noqa: SIM117
        with births.forked(dict.fromkeys(NAMES, 0)):
            pytest.fail("there are none")


def test_a_socket_is_closed_also_where_the_spawner_is_gone() -> None:
    with Spawner() as spawner, Socket() as sock:
        spawner._process.kill()
        spawner._process.wait()
        with pytest.raises(TestbedError, match="ask the spawner: it is gone"):
            spawner.let_go(sock)
        assert sock.fileno() == -1


def test_several_brokers_that_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "die_with_parent", refused)
    ready, unready = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, ready)
        with ExitStack() as theirs:
            theirs.callback(os.close, unready)
            for _ in range(2):
                broker.be_broker(-1, unready, only_effective(0))
        with pytest.raises(PermissionError, match="a broker cannot begin: Operation not permitted"):
            nursery._await_ready(ready)


def refused() -> None:
    raise PermissionError(errno.EPERM, "no")
