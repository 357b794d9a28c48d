"""The bill: what is there now and was not before, each thing with the line that acquired it, in words."""

from __future__ import annotations

import gc
import os
import select
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.bill.bpf_objects import NAMES, BpfObject, lives, object_of
from testbed.bill.picture import Thing
from testbed.bill.trace import Heard, Trace
from testbed.bill.words import command_of, process_state, words_of
from testbed.deadlines import scaled

DEADLINE_S = scaled(1.0)
_OF_OTHERS = {"process", "orphan", "bpf", "cgroup"}
"""Kinds that end when another process gets a CPU: on a busy machine that takes its time."""
_PATIENCE = 5  # times the deadline
_RECHECK_MS = 2
_SHOWN = 24
OUTLIVE = {"process", "file", "folder", "cgroup", "mount", "pin", "interface", "named namespace", "orphan"}
"""Kinds that no traceback of a failed test keeps alive."""


@dataclass(frozen=True)
class Left:
    """One thing that was left, and who has acquired it as far as that was heard."""

    thing: Thing
    heard: Heard | None

    def line(self) -> tuple[str, str, str]:
        """Its name; what it is; how and where it was acquired."""
        words = words_of(self.thing)
        place = self.heard.place if self.heard is not None else None
        return words.head, words.body, f"{words.verb} at {place}" if place else "nothing said where"


class Search:
    """Finds who acquired a thing in what the trace has heard since a number."""

    def __init__(self, trace: Trace, since: int) -> None:
        self._trace = trace
        self._since = since

    def of(self, thing: Thing) -> Heard | None:
        """The newest acquisition that can have been its own."""
        found = [each for each in self._candidates(thing) if each.number > self._since]
        return max(found, key=lambda each: each.number, default=None)

    def _candidates(self, thing: Thing) -> Iterable[Heard]:
        trace, key = self._trace, thing.key[0]
        found: Iterable[Heard | None]
        match thing.kind:
            case "descriptor":
                found = self._of_descriptor(int(key))
            case "thread":
                found = (each for each in trace.threads if _is_thread(each, int(key)))
            case "process" | "orphan":
                found = self._of_process(int(key))
            case "file":
                found = [trace.files.get(str(key))]
            case "cgroup":
                found = [trace.cgroups.get(str(key))]
            case "bpf":
                found = (each for of, each in trace.bpf.items() if key_of(of) == thing.key)
            case _:
                found = self._by_name(str(thing.key[-1]))
        return filter(None, found)

    def _of_descriptor(self, fd: int) -> Iterable[Heard]:
        trace = self._trace
        if fd in trace.by_fd:
            yield trace.by_fd[fd]
        for each in trace.sockets:
            sock = each.what()
            if sock is not None and sock.fileno() == fd:
                yield each
        for path, each in list(trace.opened.items()):  # threads go on
            if each.number > self._since and _is_at(fd, path):
                yield each

    def _of_process(self, pid: int) -> list[Heard]:
        """By its number, else by its command, else the one that was heard when it began."""
        exact = [each for each in self._trace.processes if _pid(each) == pid]
        if exact:
            return exact
        others = [each for each in self._trace.processes if _pid(each) is None and each.number > self._since]
        words = command_of(pid)
        same = [each for each in others if _words(each) and _words(each) == words]
        began = _began(pid)
        return sorted(same or others, key=lambda each: abs(each.when - began), reverse=True)[-1:]

    def _by_name(self, name: str) -> Iterable[Heard]:
        """Of what a command has made, or a file that is opened: whose words have the name."""
        for each in self._trace.processes:
            if name in _words(each) or Path(name).name in _words(each).split():
                yield each
        for path, each in list(self._trace.opened.items()):
            if path == name or Path(path).name == name:
                yield each


def _is_at(fd: int, path: str) -> bool:
    """Whether a descriptor is of what is at a path now, or was when it was opened."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))  # noqa: PTH116 (it is asked of each that was opened)
    except OSError:
        with suppress(OSError):
            return Path(f"/proc/self/fd/{fd}").readlink() == Path(f"{path} (deleted)")
    return False


def _pid(heard: Heard) -> int | None:
    if isinstance(heard.what, int):
        return heard.what
    popen = heard.what() if callable(heard.what) else None
    return getattr(popen, "pid", None)


def _words(heard: Heard) -> str:
    return heard.words


def _is_thread(heard: Heard, number: int) -> bool:
    thread = heard.what() if heard.what is not None else None
    return thread is not None and thread.native_id == number


def _began(pid: int) -> float:
    """Seconds of CLOCK_BOOTTIME (proc(5), starttime)."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return 0.0
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def key_of(found: BpfObject) -> tuple[str, int]:
    """As the key of a `Thing`."""
    return NAMES[found.kind], found.number


def made(trace: Trace, since: int) -> list[Thing]:
    """What the trace has heard of that has no descriptor and is still there: files, cgroups, BPF objects."""
    found = [
        Thing("file", (path,))
        for path, heard in list(trace.files.items())
        if heard.number > since and os.path.lexists(path) and not trace.stays(path)
    ]
    found += [
        Thing("cgroup", (path,))
        for path, heard in list(trace.cgroups.items())
        if heard.number > since and os.path.lexists(path) and not trace.stays(path)
    ]
    found += [
        Thing("bpf", key_of(each))
        for each, heard in list(trace.bpf.items())
        if heard.number > since and each not in trace.kept_bpf and lives(each)
    ]
    return found


def still_there(thing: Thing) -> bool:
    """Of what no picture shows: files, cgroups, BPF objects, processes that have left us."""
    match thing.kind:
        case "file" | "cgroup":
            return os.path.lexists(str(thing.key[0]))
        case "bpf":
            kind, number = thing.key
            return any(lives(BpfObject(each, int(number))) for each, name in NAMES.items() if name == kind)
        case "orphan":
            return process_state(int(thing.key[0])) not in {"", "Z"}
    return False


def settled(gained: Callable[[], Collection[Thing]]) -> Collection[Thing]:
    """What is gained once the kernel has done what it does later: at once where that is nothing.

    Else garbage is collected, and it is waited for until nothing is left, at most a second; five for what
    other processes have to end.
    """
    found = gained()
    if not found:
        return found
    gc.collect()
    start = time.monotonic()
    poll = select.poll()
    while (found := gained()) and not _is_for_good(found) and time.monotonic() < start + _deadline(found):
        poll.poll(_RECHECK_MS)
    return found


def _deadline(things: Collection[Thing]) -> float:
    return DEADLINE_S * (_PATIENCE if any(each.kind in _OF_OTHERS for each in things) else 1)


def _is_for_good(things: Collection[Thing]) -> bool:
    """Whether nobody is there who could still close them: descriptors of a process with one thread."""
    return all(each.kind == "descriptor" for each in things) and threading.active_count() == 1


def is_below(path: str, folders: Collection[object]) -> bool:
    """Whether a path is in one of these folders, however deep."""
    return any(str(up) in folders for up in Path(path).parents)


def without_doubles(things: Collection[Thing]) -> list[Thing]:
    """Of what is named twice, once: an object by its descriptor, a folder without what is in it."""
    held = {found for each in things if each.kind == "descriptor" if (found := object_of(int(each.key[0])))}
    ids = {key_of(each) for each in held}
    folders = {str(each.key[0]) for each in things if each.kind in {"file", "cgroup"}}
    return sorted(
        each
        for each in things
        if not (each.kind == "bpf" and each.key in ids)
        and not (
            each.kind in {"file", "cgroup"}
            and any(str(up) in folders for up in Path(str(each.key[0])).parents)
        )
    )


def told(title: str, left: Collection[Left]) -> str:
    """The bill as a person reads it."""
    count = "1 thing" if len(left) == 1 else f"{len(left)} things"
    lines = [each.line() for each in left]
    head = max((len(line[0]) for line in lines), default=0)
    body = min(max((len(line[1]) for line in lines), default=0), 44)
    shown = [f"  {line[0]:<{head}}  {line[1]:<{body}}  {line[2]}".rstrip() for line in lines[:_SHOWN]]
    if len(lines) > _SHOWN:
        shown.append(f"  … and {len(lines) - _SHOWN} more")
    return "\n".join([f"leak bill: {title} left {count}", *shown])
