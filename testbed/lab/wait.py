"""Waiting without sleeping: for an exact condition, with a deadline, and words for when it expires."""

from __future__ import annotations

import ast
import inspect
import select
import textwrap
import time
from collections.abc import Callable, Sequence, Set
from typing import Protocol, TypeVar

from testbed.deadlines import scaled
from testbed.errors import WaitExpired

DEADLINE_S = scaled(2.0)
_RECHECK_MS = 1  # at most: not every change has an event that wakes us

T = TypeVar("T")
Awaited = str | Callable[[], str]


class Witness(Protocol):
    """Something that sees what happens: it wakes a wait, and tells its story when the wait expires."""

    def fileno(self) -> int:
        """A descriptor that is readable when something has happened."""

    def read(self) -> None:
        """Takes in what has happened, so that the descriptor is quiet again."""

    def pending(self, present: Set[int]) -> list[str]:
        """What is bound to come still, when only the sockets of these cookies exist as whole sockets."""

    def story(self) -> str:
        """What happened so far, in lines."""


def eventually(
    condition: Callable[[], T],
    *,
    awaited: Awaited = "",
    deadline: float = DEADLINE_S,
    witnesses: Sequence[Witness] = (),
) -> T:
    """Waits until ``condition()`` is true and returns its value. ``deadline`` in seconds.

    It is tried at once, after each event that a witness sees, and at least every millisecond.
    `WaitExpired` says what was awaited (``awaited``, else the condition's source), what was seen
    last, and each witness's story.
    """
    __tracebackhide__ = True  # a failure is where the wait was asked for
    poll = select.poll()
    for witness in witnesses:
        poll.register(witness.fileno(), select.POLLIN)
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() >= end:
            raise WaitExpired(_expired(condition, awaited, deadline, value, witnesses))
        if poll.poll(_RECHECK_MS):
            for witness in witnesses:
                witness.read()
    return value


def _expired(
    condition: Callable[[], T], awaited: Awaited, deadline: float, value: T, witnesses: Sequence[Witness]
) -> str:
    words = awaited() if callable(awaited) else awaited or _source(condition)
    lines = [f"awaited for {deadline:g} s: {words}", f"seen last: {value!r}"]
    lines += [f"    {name} = {text}" for name, text in _surroundings(condition)]
    for witness in witnesses:
        witness.read()
        lines.append(witness.story())
    return "\n".join(lines)


def _source(condition: Callable[[], T]) -> str:
    """What a condition says: the body of a lambda, else the lines that it stands in."""
    try:
        source = textwrap.dedent("".join(inspect.getsourcelines(condition)[0]))
    except (OSError, TypeError):
        return repr(condition)
    try:
        lambdas = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Lambda)]
    except SyntaxError:  # a part of a longer statement
        lambdas = []
    if len(lambdas) == 1:
        return ast.unparse(lambdas[0].body)
    return " ".join(source.split())


def _surroundings(condition: Callable[[], T]) -> list[tuple[str, str]]:
    """The variables that the condition speaks of, as they were in the end."""
    try:
        variables = inspect.getclosurevars(condition).nonlocals
    except TypeError:
        return []
    return [(name, repr(value)) for name, value in variables.items() if not callable(value)]
