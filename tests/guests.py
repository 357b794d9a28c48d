"""Guests as the tests start them: by the command, as a person does."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testbed.kernels.find import find_kernels
from testbed.kernels.kernel import Kernel
from tests.conftest import ROOT

SERIES = "6.1"
_ENTRY = 0x1000000


def the_kernel() -> Kernel:
    """The one that these tests share; fetched where it is not in the cache."""
    return find_kernels([SERIES])[0]


def vm_words(*words: str) -> list[str]:
    """``vm`` with that kernel; what whoever runs the tests ignores is not inherited."""
    return [
        *("env", "--default-signal=INT", sys.executable, "-m", "testbed", "vm", "--kernel", SERIES),
        *words,
    ]


def vm(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Runs it to its end."""
    return subprocess.run(
        vm_words(*words),
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=600,  # a guest that says nothing is ended before: `--deadline`
    )


@contextmanager
def started(*words: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """It runs until the block ends at the latest, in a session of its own."""
    with subprocess.Popen(
        vm_words(*words),
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def qemu_of(pid: int) -> int:
    """The QEMU that a process has started; 0 when there is none, or it is still the words that start it."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text(encoding="ascii").split():
            try:
                if "qemu-system" in str(Path(f"/proc/{child}/exe").readlink()):
                    return int(child)
            except OSError:
                continue  # it has ended meanwhile
    return 0


def tiny_kernel(code: bytes) -> bytes:
    """A vmlinux that QEMU boots by its PVH entry (32 bits, protected mode), which is this code."""
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", _ENTRY)
    content = code.ljust(64, b"\0") + note + b"Linux version 0.0.1-tiny (someone@somewhere)\0"
    start = 64 + 2 * 56
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _ENTRY, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, start, _ENTRY, _ENTRY, len(content), len(content), 1)
    notes = struct.pack("<IIQQQQQQ", 4, 4, start + 64, _ENTRY + 64, _ENTRY + 64, len(note), len(note), 4)
    return ident + header + load + notes + content


@contextmanager
def held_in_saving(cache: Path) -> Iterator[None]:
    """Of a guest that boots: within the block its state is being written, into a pipe that nobody empties."""
    (ram,) = (cache / "drafts" / "snapshots").glob("*/ram")
    os.mkfifo(ram.with_name("state"))
    reader = os.open(ram.with_name("state"), os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        assert poll.poll(60_000), "no state is written"
        yield
    finally:
        os.close(reader)
