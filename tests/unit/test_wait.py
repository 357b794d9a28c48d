"""Waiting: for what, until when, and what is said when it is over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from contextlib import suppress

import pytest

from testbed.errors import WaitExpired
from testbed.lab.wait import eventually


class Bell:
    """A witness that wakes a wait when it is rung."""

    def __init__(self) -> None:
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.rung = 0

    def fileno(self) -> int:
        return self.event

    def read(self) -> None:
        with suppress(BlockingIOError):
            self.rung += os.eventfd_read(self.event)

    def pending(self, present: Set[int]) -> list[str]:
        return [str(cookie) for cookie in present]

    def story(self) -> str:
        return f"rung {self.rung} times"


@pytest.fixture
def bell() -> Iterator[Bell]:
    made = Bell()
    yield made
    os.close(made.event)


def test_the_value_is_returned() -> None:
    assert eventually(lambda: [1]) == [1]


def test_it_is_tried_again() -> None:
    tries = iter([0, 0, 7])
    assert eventually(lambda: next(tries)) == 7


def test_expired_says_what_was_awaited_and_seen() -> None:
    numbers = [1, 2]
    with pytest.raises(WaitExpired) as caught:
        eventually(lambda: 3 in numbers, deadline=0.01)
    text = str(caught.value)
    assert "awaited for 0.01 s: 3 in numbers\n" in text
    assert "seen last: False" in text
    assert "numbers = [1, 2]" in text


def test_expired_in_given_words() -> None:
    with pytest.raises(WaitExpired, match="the moon to rise"):
        eventually(lambda: None, awaited=lambda: "the moon to rise", deadline=0)


def test_an_event_wakes_it_and_is_taken_in(bell: Bell) -> None:
    os.eventfd_write(bell.event, 1)
    assert eventually(lambda: bell.rung, witnesses=[bell]) == 1


def test_expired_tells_the_witness_story(bell: Bell) -> None:
    os.eventfd_write(bell.event, 3)
    with pytest.raises(WaitExpired, match="rung 3 times"):
        eventually(lambda: None, deadline=0, witnesses=[bell])
