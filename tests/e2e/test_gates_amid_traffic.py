"""Gates that come and go while a link is in use."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest

from testbed.gates import Ack, Any, Fin, Link, Rst, Syn
from testbed.lab.pair import Pair

SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python has no name for it


@contextmanager
def datagrams(pair: Pair) -> Iterator[Callable[[], int]]:
    """A stream of them, client to server. What is given ends it, and returns when all have come."""
    family = pair.family.client
    sent, came, ended = 0, 0, Event()

    def receive() -> int:
        nonlocal came
        with suppress(BlockingIOError):
            while receiver.recv(1, socket.MSG_DONTWAIT):
                came += 1
        return came

    def stream() -> None:
        nonlocal sent
        while not ended.is_set():
            sender.send(b"x")
            sent += 1
            if sent % 64 == 0:  # there is room for all that are under way
                receive()

    def end() -> int:
        ended.set()
        thread.join()
        pair.lab.eventually(
            lambda: receive() == sent, awaited=lambda: f"{sent} datagrams, of which {came} came"
        )
        return sent

    with (
        pair.client.socket(family, socket.SOCK_DGRAM) as sender,
        pair.server.socket(family, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        receiver.bind(("", 0))
        sender.connect((str(pair.server.address(pair.family.version)), receiver.getsockname()[1]))
        thread = Thread(target=stream)
        thread.start()
        try:
            yield end
        finally:
            ended.set()
            thread.join()


@pytest.mark.families("v4", "v6")
def test_gates_come_and_go_amid_traffic(pair: Pair, link: Link) -> None:
    """A packet that is lost to that is one that a test waits for in vain."""
    with datagrams(pair) as end_of_it:
        for kind in (Rst, Syn, Fin, Any, Ack):
            link.drop(kind, sender="server").close()
            link.drop(kind, port=1).close()
        assert end_of_it() > 10
