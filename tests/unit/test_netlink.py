"""Answers of the kernel, as bytes: refusals are errors wherever they stand."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testbed.errors import MachineError
from testbed.kernel.netlink import Message, dump, execute

ERROR, DONE = 2, 3


def packet(kind: int, payload: bytes, sequence: int = 1) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, sequence, 0) + payload


@contextmanager
def answered(*packets: bytes) -> Iterator[socket.socket]:
    """A socket on which these answers are waiting."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for each in packets:
            theirs.send(each)
        yield ours


def test_a_dump_gives_every_payload() -> None:
    with answered(packet(20, b"one!") + packet(20, b"two!"), packet(DONE, bytes(4))) as sock:
        assert dump(sock, b"?") == [b"one!", b"two!"]


@pytest.mark.parametrize("kind", [ERROR, DONE])
def test_a_dump_that_fails_is_an_error_not_an_empty_answer(kind: int) -> None:
    with answered(packet(kind, struct.pack("=i", -errno.ENOENT))) as sock, pytest.raises(FileNotFoundError):
        dump(sock, b"?")


def test_a_refusal_names_what_was_asked() -> None:
    messages = [Message("make this", bytes(16)), Message("make that", bytes(16))]
    answers = packet(ERROR, struct.pack("=i", 0)) + packet(ERROR, struct.pack("=i", -errno.EEXIST), 2)
    with answered(answers) as sock, pytest.raises(MachineError, match="make that: EEXIST"):
        execute(sock, messages)
