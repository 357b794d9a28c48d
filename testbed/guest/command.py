"""One command in a guest, with its output and exit code; or a shell in it."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from testbed.errors import MachineError, UsageError
from testbed.guest.guest import Guest, GuestEnded
from testbed.guest.messages import Exit, Fault, Output, Waiting
from testbed.guest.qemu import MEMORY_MIB
from testbed.guest.ready import machine_of, ready_guest
from testbed.guest.system import System
from testbed.kernels.kernel import Kernel

_INSIDE = "testbed.guest.inside.commands"
_WAITING_S = 10.0
_KILLED = 128 + 9
_LEAVE = b"\x1d"  # Ctrl-], as in telnet
Writer = Callable[[int, bytes], None]


def run_command(
    kernel: Kernel,
    words: Sequence[str],
    system: System,
    *,
    files: Mapping[str, bytes] | None = None,
    output: Writer | None = None,
    deadline: float | None = None,
    memory: int = MEMORY_MIB,
) -> int:
    """Boots a guest of that kernel, runs a command in it and returns its exit code, as a shell says it.

    ``files`` are put into the guest, by absolute path; the command starts in /root. ``output`` is told
    what it writes (1 for standard output, 2 for errors); without it, it goes to ours. ``deadline`` is
    how many seconds may pass without a word of it. `GuestEnded` when the guest does not last.
    """
    with ExitStack() as stack:
        guest = _ready(kernel, system, files or {}, memory, stack)
        guest.wake(event="run", words=list(words), directory="/root")
        guest.note_ready()
        awaited = f"the end of {words[0]}"
        while True:
            match message := guest.receive(deadline, awaited):
                case Output(stream=stream, data=data):
                    (output or _ours)(stream, data)
                case Exit(code=code):
                    if code == _KILLED and (line := guest.console.out_of_memory()):
                        (output or _ours)(2, f"the guest's kernel: {line}\n".encode())
                    return code
                case Fault(why=why, trace=trace):
                    raise MachineError(f"run {words[0]} in the guest", why, "", trace)
                case _:
                    raise guest.unexpected(message, awaited)


def run_shell(
    kernel: Kernel, system: System, *, files: Mapping[str, bytes] | None = None, memory: int = MEMORY_MIB
) -> int:
    """A shell in a guest of that kernel, on this terminal; returns its exit code. Ctrl-] ends the guest.

    `UsageError` when this is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("start a shell in the guest", "this is no terminal", "name a command: vm … -- CMD")
    with ExitStack() as stack:
        guest = _ready(kernel, system, files or {}, memory, stack)
        columns, rows = os.get_terminal_size(sys.stdout.fileno())  # whatever COLUMNS may say
        terminal = os.environ.get("TERM", "linux")
        sys.stdout.write(f"Linux {guest.release}; `exit` or Ctrl-] ends the guest\n")
        sys.stdout.flush()
        _connect_terminal(guest, stack)
        guest.wake(event="shell", rows=rows, columns=columns, terminal=terminal)
        try:
            message = guest.receive(None, "the end of the shell")
        except _Left:
            return 0
        if not isinstance(message, Exit):
            raise guest.unexpected(message, "the end of the shell")
        return message.code


class _Left(Exception):
    """Ctrl-] was typed."""


def _connect_terminal(guest: Guest, stack: ExitStack) -> None:
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    stack.callback(termios.tcsetattr, stdin, termios.TCSADRAIN, before)
    tty.setraw(stdin)

    def typed() -> None:
        data = os.read(stdin, 4096)
        if not data or _LEAVE in data:
            raise _Left
        guest.type(data)

    guest.watch(stdin, typed)
    guest.on_console = lambda data: _ours(1, data)


def _ready(
    kernel: Kernel, system: System, files: Mapping[str, bytes], memory: int, stack: ExitStack
) -> Guest:
    """A guest that waits for a command. One with files of its own is booted, as no other has them."""
    if not files:
        return stack.enter_context(ready_guest(kernel, system, _INSIDE, _await_waiting, memory=memory))
    with machine_of(kernel, system, _INSIDE, files=files, memory=memory) as (machine, _):
        guest = stack.enter_context(Guest(machine))
        _await_waiting(guest)
    return guest


def _await_waiting(guest: Guest) -> None:
    guest.await_up()
    message = guest.receive(guest.pace.seconds(_WAITING_S), "its agent, waiting")
    if isinstance(message, Fault):
        raise MachineError("start the guest's agent", message.why, "", message.trace)
    if not isinstance(message, Waiting):
        raise guest.unexpected(message, "its agent, waiting")


def _ours(stream: int, data: bytes) -> None:
    file = sys.stdout if stream == 1 else sys.stderr
    file.buffer.write(data)
    file.flush()


__all__ = ["GuestEnded", "run_command", "run_shell"]
