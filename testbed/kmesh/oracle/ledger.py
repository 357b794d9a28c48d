"""What user space did to the program set, and when: the part of a story that no callback tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    """The entries so far, in the order in which they were done."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    @contextmanager
    def entry(self, action: Action) -> Iterator[None]:
        """Around the doing of it. What raises was not done and is not entered."""
        begun = time.monotonic_ns()
        yield
        self.entries.append(Entry(action, begun, time.monotonic_ns()))
