"""The errors that reach a person: what was attempted, what happened, what to do."""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """Exit codes of every command."""

    PASSED = 0
    FAILED = 1
    USAGE = 2
    CANNOT_RUN = 3
    INTERRUPTED = 130  # Ctrl-C, as shells count it; 143 for SIGTERM, 129 for SIGHUP


def errno_name(number: int) -> str:
    """The name and text of an errno (a negative one as the kernel returns it): ``EPERM (Operation …)``."""
    number = abs(number)
    return f"{_errno.errorcode.get(number, f'errno {number}')} ({os.strerror(number)})"


def command(arguments: str) -> str:
    """How a person runs one of our commands here: by the launcher of a checkout, or by its name."""
    return f"{os.environ.get('TESTBED_COMMAND', 'testbed')} {arguments}"


# What the machine has run out of, whoever asked: no program's fault and no test's, and mended in one way.
_SCARCE = {_errno.EMFILE, _errno.ENFILE, _errno.ETOOMANYREFS, _errno.ENOMEM, _errno.EFBIG}
_FULL = {_errno.ENOSPC, _errno.EDQUOT}
_OF_THE_DISK = _FULL | {_errno.EROFS, _errno.EIO, _errno.EFBIG}
_NO_THREAD = "can't start new thread"  # Python's words for EAGAIN of pthread_create(3)


def remedy(number: int, where: Path | str = "") -> str:
    """What gives more of what an errno says there is too little of; ``where`` is a path that it is about.

    Empty for an errno that is about something else.
    """
    most = os.sysconf("SC_OPEN_MAX")  # RLIMIT_NOFILE: to import a module for it could take one more
    place = f" of {where}" if where else ""
    room = _room(where) if where and number == _errno.ENOSPC else ""
    return {
        _errno.EMFILE: f"raise the limit of open files, of {most} now: `ulimit -n {max(4096, 4 * most)}`",
        _errno.ETOOMANYREFS: "let more descriptors be under way between its processes, as many as `ulimit -n`"
        f" says ({most} now): `ulimit -n {max(4096, 4 * most)}`",
        _errno.EFBIG: "raise the limit of a file's size: `ulimit -f unlimited`",
        _errno.ENFILE: "raise the machine's limit of open files: `sysctl fs.file-max`",
        _errno.ENOMEM: "give it more memory: free some, or raise the memory limit of its cgroup"
        " (/proc/self/cgroup) or those of `ulimit -v` and `ulimit -l`",
        _errno.EAGAIN: "let it have more processes and threads: raise pids.max of its cgroup"
        " (/proc/self/cgroup) or `ulimit -u`",
        _errno.ENOSPC: f"make room on the file system{place}{room}",
        _errno.EDQUOT: f"make room on the file system{place}: `quota` says what this user may have",
        _errno.EROFS: f"mount the file system{place} writable, or name another place",
    }.get(number, "")


def _room(where: Path | str) -> str:
    """What is left there, by statvfs(3)."""
    path = Path(where).absolute()
    try:
        found = os.statvfs(next(each for each in (path, *path.parents) if each.exists()))
    except OSError:
        return ""
    free, whole = (blocks * found.f_frsize // 1024 for blocks in (found.f_bavail, found.f_blocks))
    inodes = f" and {found.f_favail} of {found.f_files} inodes" if found.f_files else ""
    return f": {free} of {whole} KiB{inodes} are left"


def ran_out(error: BaseException | None) -> int | None:
    """The errno of what the machine has run out of, where that is what an error comes of; else None."""
    if isinstance(error, TestbedError):
        return error.scarce
    if isinstance(error, MemoryError):
        return _errno.ENOMEM
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        return _errno.EAGAIN
    if isinstance(error, OSError) and error.errno in _SCARCE:
        return error.errno
    if isinstance(error, OSError | ImportError):
        return _named_in(str(error))  # of dlopen(3), which has no errno
    return None


def _named_in(text: str) -> int | None:
    """What has run out by the words of others: a compiler's, a loader's, the C library's."""
    for number in _SCARCE:
        if _errno.errorcode[number] in text or os.strerror(number) in text:
            return number
    return None


def machine_error(what: str, error: BaseException, fix: str = "", where: Path | str = "") -> MachineError:
    """An error of the machine, in words for a person. ``fix`` is for what is not by the errno alone.

    ``where`` is the path that it is about, where the error itself has none.
    """
    number = ran_out(error) or (error.errno if isinstance(error, OSError) else None)
    if number is None:
        return MachineError(what, f"{type(error).__name__}: {error}", fix)
    where = _path_of(error) or str(where)
    why = errno_name(number) + (f": {where}" if where and where not in what else "")
    return MachineError(what, why, fix if fix and number not in _SCARCE else remedy(number, where) or fix)


def file_error(what: str, error: OSError, fix: str = "", where: Path | str = "") -> TestbedError:
    """Of a file that cannot be written: of the machine where its disk is full, else of who named it."""
    if error.errno in _OF_THE_DISK or ran_out(error) is not None:
        return machine_error(what, error, fix, where)
    return UsageError(what, errno_name(error.errno or 0), fix)


def _path_of(error: BaseException) -> str:
    named = error.filename if isinstance(error, OSError) else None
    return os.fsdecode(named) if isinstance(named, str | bytes) else ""


def need_descriptors(count: int, what: str) -> None:
    """`MachineError` where so many cannot be had: before ``what`` is begun, which would end badly there."""
    with ExitStack() as stack:
        try:
            for _ in range(count):
                stack.callback(os.close, os.open("/", os.O_PATH | os.O_CLOEXEC))
        except OSError as error:
            why = f"{errno_name(error.errno or 0)}: it takes {count} more"
            raise MachineError(what, why) from error


def need_memory(size: int, what: str) -> None:
    """`MachineError` where ``size`` bytes cannot be had: half-way, libraries would abort and not raise."""
    import mmap

    try:
        mmap.mmap(-1, size, mmap.MAP_PRIVATE).close()
    except OSError as error:
        raise MachineError(what, f"{errno_name(error.errno or 0)}: it takes {size >> 20} MiB more") from error


def need_processes(count: int, what: str) -> None:
    """`MachineError` where so many cannot be started more: a limit of processes counts threads too."""
    import threading

    with ExitStack() as stack:
        over = threading.Event()
        stack.callback(over.set)
        try:
            for _ in range(count):
                thread = threading.Thread(target=over.wait)
                thread.start()
                stack.callback(thread.join)
                stack.callback(over.set)
        except RuntimeError as error:
            raise MachineError(
                what, f"{errno_name(_errno.EAGAIN)}: it takes {count} processes more", remedy(_errno.EAGAIN)
            ) from error


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Within it a process or thread is started: what keeps it from that is a `MachineError` (``start …``)."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        if ran_out(error) is None and getattr(error, "errno", None) != _errno.EAGAIN:
            raise
        raise machine_error(f"start {what}", error) from error


_LINES = "\n\t"  # what a message of several lines is made of


class TestbedError(Exception):
    """Something the testbed could not do.

    ``what`` was attempted, ``why`` is what happened, ``fix`` what to do about it. ``details`` are
    lines worth seeing at once (a compiler's error, the verifier's reason); the whole of it is in
    the file that ``why`` or ``details`` names.
    """

    __test__ = False  # a name that pytest would take for a test class
    exit_code: ExitCode = ExitCode.CANNOT_RUN

    def __init__(self, what: str, why: str, fix: str = "", details: str = "") -> None:
        self.scarce = _named_in(why)
        """The errno of what the machine has run out of, where it has."""
        if self.scarce is not None:  # whatever else it could have been, this is what mends it
            if _errno.errorcode[self.scarce] not in why:
                why = why.replace(os.strerror(self.scarce), errno_name(self.scarce))
            fix = remedy(self.scarce)
            self.exit_code = ExitCode.CANNOT_RUN
        super().__init__(what, why, fix, details)
        self.what = what
        self.why = why
        self.fix = fix
        self.details = details

    def __str__(self) -> str:
        text = f"{_shown(self.what)}: {_shown(self.why, _LINES)}"
        if self.details:
            text += "\n" + "\n".join(f"    {line}" for line in self.details.splitlines())
        if self.fix:
            text += f"\n  → {_shown(self.fix, _LINES)}"
        return text


def _shown(text: str, kept: str = "") -> str:
    """Names that a person or a file gave can hold anything: nothing of them is obeyed by a terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in kept else ascii(each)[1:-1] for each in text)


class UsageError(TestbedError):
    """A request that makes no sense as it was put (a bad file, option or value)."""

    exit_code = ExitCode.USAGE


class MachineError(TestbedError):
    """The machine cannot do what is needed: no root, no cgroup v2, no headers."""


class ProgramError(TestbedError):
    """A BPF program that does not compile, load or attach."""


class WaitExpired(AssertionError):
    """A condition that did not come true before its deadline."""


class EventsLost(AssertionError):
    """A ring was full, so that what was recorded is not all that happened."""
