"""What user space did to the program set, and when: the part of a story that no callback tells."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from testbed.kmesh.abi import Verdict
from testbed.kmesh.records import Destination, Storage
from testbed.lab.family import Address, ConnTuple

SettingValue = Address | bool | int | None


@dataclass(frozen=True)
class Managed:
    """An address in the managed map; ``value`` None: taken out."""

    address: Address
    value: int | None


@dataclass(frozen=True)
class Judged:
    """A verdict; None: taken out."""

    connection: ConnTuple
    verdict: Verdict | None


@dataclass(frozen=True)
class Cleared:
    """A whole map emptied: ``managed``, ``verdicts`` or ``sockhash``."""

    what: str


@dataclass(frozen=True)
class Configured:
    """A setting by its name in `testbed.kmesh.config.Config`."""

    name: str
    value: SettingValue


@dataclass(frozen=True)
class Stored:
    """A socket's storage, by its cookie; None: taken out."""

    cookie: int
    storage: Storage | None


@dataclass(frozen=True)
class Connecting:
    """A client's socket, by its cookie, that is about to connect."""

    cookie: int
    destination: Destination


Action = Managed | Judged | Cleared | Configured | Stored | Connecting


@dataclass(frozen=True)
class Entry:
    """An action, and when it was begun and done: nanoseconds of CLOCK_MONOTONIC, as programs have them."""

    action: Action
    begun_ns: int
    done_ns: int


class Ledger:
    """The entries so far, in the order in which they were done.

    ``around`` is called before each change of a map (False) and after it (True: user space did it).
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.around: Callable[[bool], None] | None = None

    def entry(self, action: Action) -> _Doing:
        """Around the doing of it. What raises was not done and is not entered."""
        return _Doing(self.entries, action, None if isinstance(action, Connecting) else self.around)

    def unjudged(self) -> _Doing:
        """Around a change of a map that the contract has no word on: it is not entered."""
        return _Doing([], None, self.around)


class _Doing:
    """A context manager; no `contextmanager`, which takes longer than most of what is done in it."""

    __slots__ = ("_action", "_around", "_begun", "_entries")

    def __init__(
        self, entries: list[Entry], action: Action | None, around: Callable[[bool], None] | None = None
    ) -> None:
        self._entries = entries
        self._action = action
        self._around = around

    def __enter__(self) -> None:
        if self._around is not None:
            self._around(False)
        self._begun = time.monotonic_ns()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if self._action is not None:
                self._entries.append(Entry(self._action, self._begun, time.monotonic_ns()))
            if self._around is not None:
                self._around(True)
