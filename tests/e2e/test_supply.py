"""Sockets by the thousand: as many as were asked for, plain ones, and none left behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from testbed.lab.lab import Lab
from testbed.lab.sockets import accept, supply


def _open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("count", [0, 1, 64, 65, 200])
def test_as_many_as_were_asked_for(lab: Lab, count: int) -> None:
    made = list(supply(lab["client"], count))
    assert len(made) == count
    for sock in made:
        assert type(sock) is socket.socket
        sock.close()


@pytest.mark.parametrize("taken", [0, 1, 64, 65])
def test_what_nobody_takes_is_closed(lab: Lab, taken: int) -> None:
    before = _open()
    sockets = supply(lab["client"], 200)
    for _ in range(taken):
        next(sockets).close()
    sockets.close()
    assert _open() == before


def test_accept_is_as_the_listeners_own(lab: Lab) -> None:
    with lab["server"].listen() as listener, next(supply(lab["client"], 1)) as client:
        client.connect((str(lab["server"].address(4)), listener.getsockname()[1]))
        server, peer = accept(listener)
        with server:
            assert type(server) is socket.socket
            assert peer == client.getsockname()
            assert (server.family, server.type, server.gettimeout()) == (
                socket.AF_INET,
                socket.SOCK_STREAM,
                None,
            )
            assert os.get_blocking(server.fileno())
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            accept(listener)
        listener.settimeout(0.01)
        with pytest.raises(TimeoutError):
            accept(listener)


def test_a_listener_whose_calls_somebody_takes_down_accepts_itself(lab: Lab) -> None:
    class Noted(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            raise InterruptedError("noted")

    made = lab["server"].listen()
    with Noted(fileno=made.detach()) as noted, pytest.raises(InterruptedError):
        accept(noted)
