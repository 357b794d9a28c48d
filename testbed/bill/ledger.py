"""Who has what: tests, the fixtures of broader scope, and what stays on purpose."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType

from testbed.bill.bill import Left, Search, is_below, key_of, made, settled, still_there, without_doubles
from testbed.bill.bpf_objects import object_of
from testbed.bill.machine import NOBODYS, Machine, others_live
from testbed.bill.orphans import orphans
from testbed.bill.picture import Thing, take
from testbed.bill.trace import KEPT, Heard, Trace


@dataclass(frozen=True)
class Bill:
    """What one test or fixture has left. ``who`` is it in words."""

    who: str
    left: tuple[Left, ...]

    @property
    def is_of_test(self) -> bool:
        return self.who == _TEST

    def only(self, kinds: set[str]) -> Bill:
        """Of what is left, things of these kinds."""
        return Bill(self.who, tuple(each for each in self.left if each.thing.kind in kinds))


_TEST = "the test"


@dataclass
class _Owner:
    """A fixture that lives longer than a test, and what its setup has acquired."""

    who: str
    code: CodeType | None = None
    things: dict[Thing, Heard | None] = field(default_factory=dict)

    def has_made(self, heard: Heard | None) -> bool:
        """Whether it was at a line of a function within the fixture: one that it hands out."""
        line = heard.place.ours if heard is not None and heard.place is not None else None
        if line is None or self.code is None or line.file != self.code.co_filename:
            return False
        return line.function.startswith(f"{self.code.co_qualname}.<locals>.")


def _of_python() -> set[Thing]:
    """What multiprocessing makes once a process, whoever needs it first, and keeps to its end.

    Its tracker of shared memory: a process and the pipe to it.
    """
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    found = set()
    if (pid := getattr(tracker, "_pid", None)) is not None:
        found.add(Thing("process", (pid,)))
    fd = getattr(tracker, "_fd", None)
    if fd is not None:
        status = os.fstat(fd)
        found.add(Thing("descriptor", (fd, status.st_dev, status.st_ino, 0)))
    return found


class Ledger:
    """Pictures of this process, and of the machine where ``machine`` is given, around tests and fixtures."""

    def __init__(self, trace: Trace, machine: Machine | None, word: bytes) -> None:
        self._trace = trace
        self._machine = machine
        self._word = word
        self._owners: dict[object, _Owner] = {}
        self._ended: list[_Owner] = []
        self._inner: list[dict[Thing, Heard | None]] = []
        self._known: set[Thing] = set()
        self._since = 0
        self._before: frozenset[Thing] = frozenset()
        self.unclear: list[Left] = []
        """What another run of the testbed, which is at work now, can have made just as well."""

    def _look(self) -> frozenset[Thing]:
        with self._trace.deaf():
            things = take(self._trace.times()).things
            return things if self._machine is None else things | self._machine.take()

    def begin(self) -> None:
        """A test begins."""
        self._since = self._trace.begin()
        self._before = self._look()

    def end(self) -> None:
        """And ends, billed or not."""
        self._trace.end()

    @contextmanager
    def setting_up(self, owner: object, who: str, code: CodeType | None = None) -> Iterator[None]:
        """While a fixture of broader scope is set up: what comes then is its own, but for those within it."""
        since, before = self._trace.number, self._look()
        self._inner.append({})
        try:
            yield
        finally:
            within = self._inner.pop()
            search = Search(self._trace, since)
            with self._trace.deaf():
                now = self._look()
                gained = set(now - before) | set(made(self._trace, since))
                if self._trace.has_started:
                    gained |= set(orphans(self._word)) - self._known
                gained -= self._kept(now)
                mine = {each: search.of(each) for each in gained if each not in within}
            self._owners[owner] = _Owner(who, code, mine)
            for around in self._inner:
                around.update(mine | within)

    def finalized(self, owner: object) -> None:
        """A fixture is taken down: what it has left is on its bill when the test ends."""
        if owner in self._owners:
            self._ended.append(self._owners.pop(owner))

    def bills(self) -> list[Bill]:
        """What is left at the end of a test, of the fixtures that ended with it first."""
        with self._trace.deaf():
            found = settled(self._gained)
            if not found:
                self._ended.clear()
                return []
            things = without_doubles(found)
            bills = [
                Bill(
                    owner.who,
                    tuple(Left(each, owner.things[each]) for each in things if each in owner.things),
                )
                for owner in self._ended
            ]
            search = Search(self._trace, self._since)
            theirs = {each for owner in self._ended for each in owner.things}
            mine = [Left(each, search.of(each)) for each in things if each not in theirs]
            unclear = [each for each in mine if each.thing.kind in NOBODYS and each.heard is None]
            if unclear and others_live():
                self.unclear += unclear
                mine = [each for each in mine if each not in unclear]
            bills.append(Bill(_TEST, tuple(mine)))
            self._ended.clear()
            self._known.update(each for each in found if each.kind == "orphan")
            return [each for each in bills if each.left]

    def _gained(self) -> set[Thing]:
        now = self._look()
        things = set(now - self._before) | set(made(self._trace, self._since))
        if self._trace.has_started:
            things |= set(orphans(self._word))
        for owner in self._owners.values():
            things -= owner.things.keys()
        things -= self._known | self._kept(now) | _of_python()
        things = self._without_objects_of_others(things, now)
        things -= self._handed_out(things)
        folders = {
            each.key[0] for owner in self._owners.values() for each in owner.things if each.kind == "file"
        }
        things = {each for each in things if each.kind != "file" or not is_below(str(each.key[0]), folders)}
        for owner in self._ended:
            things |= {each for each in owner.things if each in now or still_there(each)}
        return things

    def _handed_out(self, things: set[Thing]) -> set[Thing]:
        """What a function of a fixture of broader scope makes when a test calls it: the fixture's own."""
        found = set()
        search = Search(self._trace, self._since)
        for each in things:
            heard = search.of(each)
            for owner in self._owners.values():
                if owner.has_made(heard):
                    owner.things[each] = heard
                    found.add(each)
        return found

    def _kept(self, now: frozenset[Thing]) -> set[Thing]:
        """What somebody has said stays on purpose, and descriptors of BPF objects that do."""
        kept = self._trace.kept
        return {
            each
            for each in now - self._before
            if (each.kind in {"descriptor", "process"} and each.key[0] in kept) or self._is_memory(each)
        }

    def _is_memory(self, thing: Thing) -> bool:
        """Whether it is of the memory of a map that is older than the test: Python's mmap has a copy."""
        if thing.kind != "descriptor" or not self._trace.kept_bpf:
            return False
        found = object_of(int(thing.key[0]))
        return found in self._trace.kept_bpf and self._trace.bpf[found].kind.startswith(KEPT)

    def _without_objects_of_others(self, things: set[Thing], now: frozenset[Thing]) -> set[Thing]:
        """Without BPF objects that were there before: a program, for example, that a test has attached."""
        if not any(each.kind == "bpf" for each in things):
            return things
        older = {each for each in now & self._before if each.kind == "descriptor"}
        for owner in self._owners.values():
            older |= {each for each in owner.things if each.kind == "descriptor" and each in now}
        held = {key_of(found) for each in older if (found := object_of(int(each.key[0]))) is not None}
        return {each for each in things if not (each.kind == "bpf" and each.key in held)}
