"""Running a command on a host of a lab, with the terminal, signals and exit code of who asks."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import NoReturn

from testbed.errors import errno_name
from testbed.kernel.syscalls import CLONE_NEWNET, clone_into, die_with_parent, pidfd_send_signal, setns

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # exit codes, as shells have them
_SIGNALLED = 128
KILLED = _SIGNALLED + signal.SIGKILL
"""The exit code of a command that SIGKILL ended, as all of a lab that goes down."""


def run_in(netns_fd: int, cgroup_fd: int, argv: Sequence[str], env: Mapping[str, str], keeper: int) -> int:
    """Runs a command in a network namespace and cgroup, with the streams and terminal of this process.

    Returns its exit code, 128 and the signal where one ended it. It dies with this process, and with the
    process that the pidfd ``keeper`` is of. For a process with a single thread.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # The terminal sends these to the command as well, and it is the command's to act on them.
    ignored = {number for number in _FROM_TERMINAL if signal.signal(number, signal.SIG_IGN) is signal.SIG_IGN}
    child_changed, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # ignored, it would not be written to the pipe
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    # what comes before they are forwarded waits until they are
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    pid, pidfd = clone_into(cgroup_fd)
    if pid == 0:
        _execute(netns_fd, argv, env, ignored, mask)

    def forward(number: int, _frame: FrameType | None) -> None:
        pidfd_send_signal(pidfd, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return _await(pid, pidfd, child_changed, keeper)


def _execute(
    netns_fd: int,
    argv: Sequence[str],
    env: Mapping[str, str],
    ignored: set[signal.Signals],
    mask: Iterable[int],
) -> NoReturn:
    code = _NOT_EXECUTABLE
    try:
        die_with_parent()
        setns(netns_fd, CLONE_NEWNET)
        for number in {*_FROM_TERMINAL, signal.SIGPIPE, signal.SIGXFSZ} - ignored:
            signal.signal(number, signal.SIG_DFL)  # Python ignores some, and an exec keeps that
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvpe(argv[0], list(argv), dict(env))  # noqa: S606 (a list of words; no shell)
    except OSError as error:
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        os.write(2, f"testbed: cannot run {argv[0]}: {errno_name(error.errno or 0)}\n".encode())
    finally:
        os._exit(code)


def _await(pid: int, pidfd: int, child_changed: int, keeper: int) -> int:
    """A command that stops itself, as a shell does that is suspended, stops this process too."""
    poll = select.poll()
    poll.register(child_changed, select.POLLIN)
    poll.register(keeper, select.POLLIN)
    while True:
        changed, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
        if not changed:
            _next_change(poll, pidfd, child_changed, keeper)
        elif not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALLED - code
        elif os.WSTOPSIG(status) == signal.SIGSTOP:
            os.kill(os.getpid(), signal.SIGSTOP)
            pidfd_send_signal(pidfd, signal.SIGCONT)


def _next_change(poll: select.poll, pidfd: int, child_changed: int, keeper: int) -> None:
    """Waits for one. Where it is the keeper's end, nobody else is there to end the command."""
    for fd, _ in poll.poll():
        if fd == child_changed:
            os.read(child_changed, 4096)
        else:
            poll.unregister(keeper)
            pidfd_send_signal(pidfd, signal.SIGKILL)  # not waited for yet, so it is there
