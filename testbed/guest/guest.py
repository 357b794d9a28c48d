"""A guest: a QEMU process, its console, and the line to the agent in it."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.errors import MachineError
from testbed.guest.console import Console
from testbed.guest.line import Line
from testbed.guest.messages import Message, NoMessage, Up
from testbed.guest.pace import Pace
from testbed.guest.qemu import Machine, dying_with_us, guest_command
from testbed.guest.state import GuestReport, GuestState
from testbed.kernels.cache import cache_error

BOOT_DEADLINE_S = 120.0
"""To user space. It takes 2 s with emulation on one core of today's, so this one would be far too slow."""
_SEED_BYTES = 32
_READ = 1 << 16


class GuestEnded(Exception):
    """The guest will say nothing more. ``report`` tells why."""

    def __init__(self, report: GuestReport) -> None:
        super().__init__(f"{report.state}: {report.why}")
        self.report = report


class Guest(Closing):
    """Started, or restored, when it is made; killed when it is closed, or with this process.

    ``incoming`` is a descriptor that a snapshot's state is read from. `MachineError` without QEMU.
    """

    def __init__(self, machine: Machine, incoming: int | None = None) -> None:
        self._stack = ExitStack()
        with ExitStack() as stack:
            console, port, monitor = (stack.enter_context(_Pair()) for _ in range(3))
            self.line = Line(port.ours)
            self.machine = replace(machine, nonce=self.line.nonce)
            self.console = Console()
            self.monitor = monitor.ours
            self._console = console.ours
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            theirs = [pair.theirs.fileno() for pair in (console, port, monitor)]
            words = guest_command(self.machine, *theirs)
            if incoming is not None:
                words += ["-incoming", "defer"]
                theirs.append(incoming)
            self.started = time.monotonic()
            self._process = _start(words, theirs, self._errors)
            stack.callback(self._end)
            for pair in (console, port, monitor):
                pair.theirs.close()
            self._exit = os.pidfd_open(self._process.pid)
            acquired("pidfd", self._exit)
            stack.callback(os.close, self._exit)
            self._poll = select.poll()
            for fd in (self._exit, self._console.fileno(), port.ours.fileno()):
                self._poll.register(fd, select.POLLIN)
            self._stack = stack.pop_all()
        self._messages: deque[Message | NoMessage] = deque()
        self._silent = False
        self._watched: dict[int, Callable[[], None]] = {}
        self.on_console: Callable[[bytes], None] | None = None
        self.release = ""
        self.pace = Pace.slowest()
        self.ready: float | None = None
        self.warm = incoming is not None

    def wake(self, **message: Any) -> None:
        """Sends a message, with the time and fresh randomness."""
        seed = os.urandom(_SEED_BYTES).hex()
        self.line.send(time=time.time(), seed=seed, **message)

    def type(self, data: bytes) -> None:
        """Writes to the guest's console, as if it were typed."""
        self._console.sendall(data)

    def watch(self, fd: int, readable: Callable[[], None]) -> None:
        """Calls ``readable`` when a descriptor is, while a message is awaited."""
        self._watched[fd] = readable
        self._poll.register(fd, select.POLLIN)

    def receive(self, patience: float | None, awaited: str) -> Message:
        """The next message, within ``patience`` seconds. `GuestEnded` when there will be none.

        So it is when what was said is no message: that kernel's, or its agent's, memory is not what it was.
        """
        end = time.monotonic() + patience if patience is not None else None
        while not self._messages:
            left = end - time.monotonic() if end is not None else None
            if left is not None and left <= 0:
                raise GuestEnded(self._hung(patience or 0, awaited))
            self._take_in(left)
        message = self._messages.popleft()
        if isinstance(message, NoMessage):
            why = f"what it said is no message ({message}); awaited: {awaited}"
            raise GuestEnded(self.report(GuestState.LOST, why))
        if isinstance(message, Up):
            self.release, self.pace = message.release, Pace.of(message.loops)
        return message

    def unexpected(self, message: Message, awaited: str) -> GuestEnded:
        """For a message that nobody awaits."""
        return GuestEnded(self.report(GuestState.LOST, f"it said {message.event!r}; awaited: {awaited}"))

    def await_up(self) -> Up:
        """Waits for user space. `MachineError` when modules of another kernel were given, say."""
        message = self.receive(BOOT_DEADLINE_S, "its user space")
        if not isinstance(message, Up):
            raise self.unexpected(message, "its user space")
        if not_loaded := [words for words in message.failed if words.startswith("load ")]:
            what = f"set up a guest of Linux {message.release}"
            raise MachineError(what, "; ".join(not_loaded), "are these modules that kernel's?")
        return message

    def report(self, state: GuestState = GuestState.BOOTED, why: str = "") -> GuestReport:
        """How it has fared until now."""
        return GuestReport(
            state,
            release=self.release,
            ready=self.ready,
            seconds=time.monotonic() - self.started,
            warm=self.warm,
            accelerator=self.machine.accelerator,
            why=why,
            console=self.console.tail if state is not GuestState.BOOTED else "",
        )

    def note_ready(self) -> None:
        """Now what it was started for begins; only the first call counts."""
        if self.ready is None:
            self.ready = time.monotonic() - self.started

    def close(self) -> None:
        self._stack.close()

    def _take_in(self, seconds: float | None) -> None:
        ready = {fd for fd, _ in self._poll.poll(None if seconds is None else seconds * 1000)}
        for fd in ready & self._watched.keys():
            self._watched[fd]()
        if self._console.fileno() in ready:
            self._hear()
        if self.line.socket.fileno() in ready:
            messages = self.line.take_in()
            if messages is None:
                self._poll.unregister(self.line.socket.fileno())
            else:
                self._messages += messages
        elif self._exit in ready and not self._messages:
            while self._hear():  # its end is closed: what it said last is there
                pass
            raise GuestEnded(self._gone())

    def _hear(self) -> bool:
        try:
            data = self._console.recv(_READ)
        except ConnectionError:
            data = b""
        if not data and not self._silent:
            self._poll.unregister(self._console.fileno())
            self._silent = True
        self.console.feed(data)
        if self.on_console is not None:
            self.on_console(data)
        return bool(data)

    def _hung(self, patience: float, awaited: str) -> GuestReport:
        state, why = self.console.verdict() or (
            GuestState.HANG if self.release or self.warm else GuestState.NO_BOOT,
            f"silent for {patience:.0f} s; awaited: {awaited}",
        )
        return self.report(state, why)

    def _gone(self) -> GuestReport:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        if code >= 0 and (verdict := self.console.verdict()):  # a guest that panics is ended by QEMU itself
            return self.report(*verdict)
        if code == -signal.SIGBUS and self.machine.shared:  # what mmap makes of a full disk
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise cache_error(f"keep a guest's memory in {self.machine.ram}", full)
        why = f"QEMU ended with {code}" if code >= 0 else f"QEMU was killed by {signal.Signals(-code).name}"
        if said:
            why += f": {said[-1]}"
        reached = self.release or self.warm
        return self.report(GuestState.LOST if reached else GuestState.NO_BOOT, why)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


class _Pair(Closing):
    """A socket of ours and one that QEMU inherits."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        acquired("socket", self.ours.fileno())
        acquired("socket", self.theirs.fileno())

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def _start(words: list[str], fds: list[int], errors: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            dying_with_us(words),
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is ours to hear
        )
    except OSError as error:
        raise MachineError("start QEMU", str(error), "apt-get install qemu-system-x86 util-linux") from error
