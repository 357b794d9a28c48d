"""Who acquired what: a listener to audit events (PEP 578), of which there is one a process.

It hears what the testbed says of itself (`testbed.acquired`) and what Python says: files that are opened,
sockets, processes, threads, temporary files. An audit hook cannot be taken away again: it is told to be deaf.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Thread, current_thread, get_ident
from typing import Any, NamedTuple

from testbed.acquired import ACQUIRED
from testbed.bill.bpf_objects import BpfObject, object_of
from testbed.bill.place import Place, here

KEPT = "kept "
"""How the kind of what stays on purpose begins; whoever says so has a reason."""
_NO_DESCRIPTORS = {
    "mapping",
    "attachment",
    "module",
    "process",
    "thread",
    "cgroup",
    "file",
    "folder",
    "record",
}
_OF_BPF = {"program", "map", "link", "BTF", "attachment", "object", "mapping"}
_NAMED = ("/sys/fs/bpf/", "/run/netns/")
_CREATES = os.O_CREAT | os.O_TMPFILE


class Heard(NamedTuple):
    """One acquisition: ``what`` is a descriptor, a path, a command, or a weak reference to an object."""

    number: int
    kind: str
    what: Any
    place: Place | None
    when: float
    """Seconds of CLOCK_BOOTTIME, as the kernel tells a process's start."""
    words: str = ""
    """Of a process: its command line."""


class Trace:
    """What was heard since `begin`."""

    def __init__(self) -> None:
        self._deaf = True
        self._at_work: set[int] = set()
        """Threads that are noting something: what they do for that is no event, but what others do is."""
        self._handlers: dict[str, Callable[[tuple[Any, ...]], None]] = {
            ACQUIRED: self._acquired,
            "open": self._opened,
            "socket.__new__": self._socket,
            "subprocess.Popen": self._popen,
            "os.fork": self._forked,
            "os.forkpty": self._forked,
            "os.posix_spawn": self._spawned,
            "_thread.start_new_thread": self._started,
            "tempfile.mkdtemp": self._temporary,
            "tempfile.mkstemp": self._temporary,
            "os.mkdir": self._made,
            "os.link": self._named,
            "os.symlink": self._named,
            "os.rename": self._named,
            "socket.bind": self._bound,
        }
        self.is_temporary: Callable[[str], bool] = lambda _path: False
        """Whether a path is where temporary files are, whoever makes them there."""
        self.is_pytests: Callable[[str], bool] = lambda _path: False
        """Whether pytest removes it, some runs later."""
        self.by_fd: dict[int, Heard] = {}
        self._depth = 0
        self._clear()
        self._threads: weakref.WeakKeyDictionary[Thread, Heard] = weakref.WeakKeyDictionary()
        self.number = 0
        """Of the last acquisition."""
        sys.addaudithook(self._hook)

    def _clear(self) -> None:
        self.opened: dict[str, Heard] = {}
        self.sockets: list[Heard] = []
        self.processes: list[Heard] = []
        self.threads: list[Heard] = []
        self.files: dict[str, Heard] = {}
        self.cgroups: dict[str, Heard] = {}
        self.bpf: dict[BpfObject, Heard] = {}
        self.kept_bpf: set[BpfObject] = set()
        self.kept: set[object] = set()
        self.kept_folders: set[str] = set()
        self.has_started = False
        """Whether this process has started one by itself: such as can leave it, as no host's can."""

    def begin(self) -> int:
        """Listens, and forgets what was heard, unless a test runs tests itself.

        Returns the last number before.
        """
        if self._depth == 0:
            self._clear()
        self._depth += 1
        self._deaf = False
        return self.number

    def end(self) -> None:
        """Listens no more, unless there is one around it; what was heard stays."""
        self._depth -= 1
        self._deaf = self._depth == 0

    def times(self) -> dict[int, int]:
        """For each descriptor that was heard of, which acquisition was its last."""
        return {fd: heard.number for fd, heard in self.by_fd.items()}

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """While the bill itself opens files."""
        before, self._deaf = self._deaf, True
        try:
            yield
        finally:
            self._deaf = before

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        handler = self._handlers.get(event)
        if handler is not None:
            self._hear(handler, arguments)

    def _hear(self, handler: Callable[..., None], *arguments: Any) -> None:
        me = get_ident()
        if self._deaf or me in self._at_work:
            return
        self._at_work.add(me)
        try:
            handler(*arguments)
        finally:
            self._at_work.discard(me)

    def heard(self, kind: str, what: Any, words: str = "") -> Heard:
        """Notes the line that is at work now."""
        place = here(2)
        if place is None or place.ours is None:
            place = self._starter() or place
        self.number += 1
        return Heard(self.number, kind, what, place, time.clock_gettime(time.CLOCK_BOOTTIME), words)

    def _starter(self) -> Place | None:
        """Of a thread whose own lines are none of the test: where it was started."""
        started = self._threads.get(current_thread())
        return started.place if started is not None else None

    def stays(self, path: str) -> bool:
        """Whether a file or folder is kept, or lies in a folder that is, or was made to hold one."""
        return path in self.kept or any(
            path.startswith(f"{folder}/") or folder.startswith(f"{path}/") for folder in self.kept_folders
        )

    def descriptor(self, kind: str, fd: int) -> None:
        """Of what Python has no event for."""
        self._hear(self._note_descriptor, kind, fd)

    def _note_descriptor(self, kind: str, fd: int) -> None:
        self.by_fd[fd] = self.heard(kind, fd)
        self.kept.discard(fd)

    def _acquired(self, arguments: tuple[Any, ...]) -> None:
        kind, what = arguments[0], arguments[1]
        heard = self.heard(kind, what)
        is_kept = kind.startswith(KEPT)
        kind = kind.removeprefix(KEPT)
        if isinstance(what, int) and kind in _OF_BPF and (found := object_of(what)) is not None:
            self.bpf.setdefault(found, heard)
            if is_kept:
                self.kept_bpf.add(found)
        if is_kept:
            self.kept.add(what if isinstance(what, int) else os.fspath(what))
            if kind == "folder":
                self.kept_folders.add(os.fspath(what))
        elif kind == "cgroup":
            self.cgroups[os.fspath(what)] = heard
        elif kind == "process":
            self.processes.append(heard)
        elif kind in {"file", "folder"} and self.is_temporary(os.fspath(what)):
            self.files.setdefault(os.fspath(what), heard)
        if isinstance(what, int) and kind not in _NO_DESCRIPTORS:
            self.by_fd[what] = heard
            if not is_kept:
                self.kept.discard(what)

    def _opened(self, arguments: tuple[Any, ...]) -> None:
        path, _, flags = arguments
        if not isinstance(path, str | bytes):
            return
        name = os.fsdecode(path)
        heard = self.heard("file", name)
        self.opened[_absolute(name)] = heard
        if flags & _CREATES:
            self._note_file(name, heard)

    def _note_file(self, path: str, heard: Heard) -> None:
        """Of temporary files, those that are not there yet: it is said before the do."""
        path = _absolute(path)
        if path not in self.files and self.is_temporary(path) and not os.path.lexists(path):
            self.files[path] = heard

    def _temporary(self, arguments: tuple[Any, ...]) -> None:
        path = _absolute(os.fsdecode(arguments[0]))
        heard = self.heard("file", path)
        if not self.is_pytests(path):
            self.files.setdefault(path, heard)
        self.opened[path] = heard

    def _made(self, arguments: tuple[Any, ...]) -> None:
        if isinstance(arguments[0], int):
            return
        path = _absolute(os.fsdecode(arguments[0]))
        if path.startswith("/sys/fs/cgroup/"):
            self.cgroups.setdefault(path, self.heard("cgroup", path))
        elif path.startswith(_NAMED):
            self.opened[path] = self.heard("folder", path)
        elif self.is_temporary(path):
            self._note_file(path, self.heard("folder", path))

    def _named(self, arguments: tuple[Any, ...]) -> None:
        path = _absolute(os.fsdecode(arguments[1]))
        if self.is_temporary(path):
            self._note_file(path, self.heard("file", path))

    def _bound(self, arguments: tuple[Any, ...]) -> None:
        """A Unix socket's name is a file, but for an abstract one."""
        name = arguments[1]
        if isinstance(name, str | bytes) and name[:1] not in ("", "\0", b"", b"\0"):
            path = _absolute(os.fsdecode(name))
            if self.is_temporary(path):
                self._note_file(path, self.heard("file", path))

    def _socket(self, arguments: tuple[Any, ...]) -> None:
        try:
            reference = weakref.ref(arguments[0])
        except TypeError:  # of _socket's own class
            return
        self.sockets.append(self.heard("socket", reference))
        if len(self.sockets) > 4096:
            self.sockets = [each for each in self.sockets if each.what() is not None]

    def _popen(self, arguments: tuple[Any, ...]) -> None:
        frame = sys._getframe(3)  # above the hook
        popen = frame.f_locals.get("self")  # whose pid is not known yet
        words = arguments[1]
        text = words if isinstance(words, str) else " ".join(map(os.fsdecode, words))
        self.has_started = True
        self.processes.append(self.heard("process", None if popen is None else weakref.ref(popen), text))

    def _forked(self, _arguments: tuple[Any, ...]) -> None:
        self.has_started = True
        self.processes.append(self.heard("process", None))

    def _spawned(self, arguments: tuple[Any, ...]) -> None:
        self.has_started = True
        self.processes.append(self.heard("process", None, " ".join(map(os.fsdecode, arguments[1]))))

    def _started(self, arguments: tuple[Any, ...]) -> None:
        self._note_thread(getattr(arguments[0], "__self__", None))

    def thread(self, thread: object) -> None:
        """Of what Python has no event for before 3.12."""
        self._hear(self._note_thread, thread)

    def _note_thread(self, thread: object) -> None:
        if isinstance(thread, Thread):
            heard = self.heard("thread", weakref.ref(thread))
            self._threads[thread] = heard
            self.threads.append(heard)


def _absolute(path: str) -> str:
    """Without resolving. As it is where the current directory is gone: a hook's error forbids the do."""
    try:
        return os.path.abspath(path)  # noqa: PTH100
    except OSError:
        return path


@cache
def the_trace() -> Trace:
    """The one of this process."""
    return Trace()
