"""Changes of maps: what is in them is compared whenever something can have changed it.

Nothing in the kernel tells of a map's change. But programs change maps in callbacks and calls, and user
space through our own views: so what is in them is read before and after each of these, and a change is
known to lie between two readings. A map with many keys is compared at the end alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from testbed.bpf.batch import MapReader, contents
from testbed.bpf.maps import Map

_MANY = 256  # keys: reading more each time would cost more than what is recorded


class Change(NamedTuple):
    """A key of a map that has another value than before; None is none. Times of CLOCK_MONOTONIC.

    ``by_user`` when it was user space, through one of the testbed's views.
    """

    from_ns: int
    to_ns: int
    name: str
    key: bytes
    before: bytes | None
    after: bytes | None
    by_user: bool


class MapWatch:
    """Watches maps of bytes, by the names that they are told by."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self.changes: list[Change] = []
        self._maps = {name: (each, MapReader(each, _MANY)) for name, each in maps.items()}
        self._large: set[str] = set()
        self._content = {name: contents(each) for name, each in maps.items()}
        self.since_ns = time.monotonic_ns()

    def is_empty(self, name: str) -> bool:
        """Whether there was nothing in that map when it was read last; also where it is not watched."""
        return not self._content.get(name)

    def unchanged(self, until_ns: int) -> None:
        """Nothing can have changed them from the last time until then."""
        self.since_ns = until_ns

    def note(self, by_user: bool = False, *, last: bool = False) -> None:
        """Something can have changed them: the program, or user space. ``last`` reads large ones too."""
        for name, (each, reader) in self._maps.items():
            if name in self._large and not last:
                continue
            now = contents(each) if last else reader.read()
            if now is None:
                self._large.add(name)
                continue
            before = self._content[name]
            if now != before:
                self._compare(name, before or {}, now, by_user)
                self._content[name] = now
        self.since_ns = time.monotonic_ns()

    def _compare(
        self, name: str, before: Mapping[bytes, bytes], after: Mapping[bytes, bytes], by_user: bool
    ) -> None:
        until = time.monotonic_ns()
        for key in [*before, *(key for key in after if key not in before)]:
            old, new = before.get(key), after.get(key)
            if old != new:
                self.changes.append(Change(self.since_ns, until, name, key, old, new, by_user))
