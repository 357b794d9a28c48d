"""What a capsule tells of the machine: its kernel with the configuration, libraries, and the kernel's log."""

from __future__ import annotations

import errno
import gzip
import os
import platform
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import testbed
from testbed.acquired import acquired
from testbed.bpf import libbpf
from testbed.capsule.model import Kernel
from testbed.closing import Closing
from testbed.errors import MachineError, errno_name

_LIBRARIES = ("pytest", "pytest-xdist", "hypothesis", "pydantic", "pyroute2", "scapy", "pyelftools", "bcc")
_RECORD = 8192  # PRINTKRECORD_MAX is smaller
_KERNEL = 0  # the facility of the kernel's own messages (syslog.h)
_PERSONAL = re.compile(r"^audit\b|\bhostname\b", re.IGNORECASE)
"""Lines that tell of users, their programs and what the machine is called."""
_LINES = 200


def kernel_facts() -> tuple[Kernel, str]:
    """The kernel that runs, and the text of its configuration; empty where nobody can tell."""
    uname = platform.uname()
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{uname.release}")):
        with suppress(OSError):  # a kernel without it, or a user who may not read it
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode(errors="replace")
            return Kernel(uname.release, uname.machine, str(path)), text
    return Kernel(uname.release, uname.machine, "unknown"), ""


def versions() -> dict[str, str]:
    """Of this testbed, Python and the libraries that have a hand in a test."""
    found = {"testbed": testbed.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    with suppress(MachineError):
        found["libbpf"] = libbpf.version()
    return found


class KernelMessages(Closing):
    """What the kernel itself logs from `mark` on (``/dev/kmsg``, Documentation/ABI/testing/dev-kmsg).

    Made once a process; ``why_not`` says why it cannot be read, where that is so.
    """

    def __init__(self) -> None:
        self.why_not = ""
        self._fd = -1
        try:
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self.why_not = errno_name(error.errno or 0)
            return
        acquired("kept descriptor", self._fd)  # of the whole process, whichever test is the first
        self.mark()

    def mark(self) -> None:
        """What has been logged so far is of no interest."""
        if self._fd >= 0:
            os.lseek(self._fd, 0, os.SEEK_END)

    def lines(self) -> tuple[str, ...] | None:
        """The lines since the mark, the last 200 of them; None where the log cannot be read."""
        if self._fd < 0:
            return None
        found: list[str] = []
        while True:
            try:
                record = os.read(self._fd, _RECORD)
            except BlockingIOError:
                return tuple(found[-_LINES:])
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                continue  # what was next has been overwritten: the rest is there
            if (line := kernel_line(record)) is not None:
                found.append(line)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def kernel_line(record: bytes) -> str | None:
    """A record as `dmesg` prints it, None for what user space wrote or what tells of users."""
    head, _, text = record.decode(errors="replace").partition(";")
    fields = head.split(",")
    line = text.partition("\n")[0]
    if len(fields) < 3 or int(fields[0]) >> 3 != _KERNEL or _PERSONAL.search(line):
        return None
    return f"[{int(fields[2]) / 1e6:12.6f}] {line}"
