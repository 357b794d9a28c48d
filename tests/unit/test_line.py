"""Requests over a control socket: each reply is its own request's, whatever became of the one before."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from socket import socket as Socket

import pytest

from testbed.errors import TestbedError
from testbed.kernel import broker
from testbed.kernel.line import Line, control_pair


@pytest.fixture
def ends() -> Iterator[tuple[Line, Socket]]:
    ours, theirs = control_pair()
    with theirs, Line(ours, "them") as line:
        yield line, theirs


def reply(theirs: Socket, number: int, *values: object, fd: int | None = None) -> None:
    if fd is not None:
        broker.send(theirs, ["fds"], [fd])
    broker.send(theirs, [number, *values])


def test_replies_are_taken_in_any_order(ends: tuple[Line, Socket]) -> None:
    line, theirs = ends
    first, second = line.request("one"), line.request("two")
    reply(theirs, first, 0, "of one")
    reply(theirs, second, 0, "of two")
    assert line.reply(second) == (["of two"], [])
    assert line.reply(first) == (["of one"], [])


@pytest.mark.parametrize("wanted", [False, True])
def test_the_reply_to_a_request_given_up_is_not_the_next_ones(
    ends: tuple[Line, Socket], monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    """Its descriptors are closed too."""
    line, theirs = ends
    if wanted:
        with monkeypatch.context() as patch:
            patch.setattr(line, "_hear", interrupted)
            with pytest.raises(KeyboardInterrupt):
                line.ask("one")
    else:
        line.request("one", wanted=False)
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 (their numbers alone)
    reply(theirs, 0, 0, "of one", fd=theirs.fileno())
    reply(theirs, 1, 0, "of two")
    assert line.ask("two") == (["of two"], [])
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_refusal_is_the_kernels_own(ends: tuple[Line, Socket]) -> None:
    line, theirs = ends
    reply(theirs, 0, errno.EPERM, "no")
    with pytest.raises(PermissionError, match="no"):
        line.ask("one")


def test_what_was_not_taken_is_closed_with_the_line() -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    ours, theirs = control_pair()
    with theirs, Line(ours, "them") as line:
        kept, taken = line.request("one"), line.request("two")
        reply(theirs, kept, 0, fd=theirs.fileno())
        reply(theirs, taken, 0)
        line.reply(taken)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_who_is_gone(ends: tuple[Line, Socket]) -> None:
    line, theirs = ends
    theirs.close()
    with pytest.raises(TestbedError, match="ask them: it is gone"):
        line.ask("one")


def test_no_more_replies_are_owed_than_a_socket_has_room_for(ends: tuple[Line, Socket]) -> None:
    """Else both ends would wait for each other: who answers for room, who asks for the answer."""
    line, theirs = ends
    most = 32
    for number in range(3 * most):
        if number >= most:  # from here on a request waits for the first reply
            reply(theirs, number - most, 0)
        line.request("one", wanted=False)
        theirs.recv(1000)
        assert line._owed == min(number + 1, most)
