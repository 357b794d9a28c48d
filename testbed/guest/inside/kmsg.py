"""What the guest's kernel logs: a splat (WARN, BUG, lockdep, RCU stall) in it is somebody's fault."""

from __future__ import annotations

import os
import re

_RECORD = 8192  # PRINTKRECORD_MAX is smaller
_SPLAT = re.compile(
    r"WARNING: |BUG: |kernel BUG at|Oops|general protection fault|refcount_t: |UBSAN: |KASAN: |"
    r"INFO: (?:task .* blocked for more than|possible |inconsistent lock|suspicious RCU|.* detected stalls)|"
    r"rcu: INFO: |Unable to handle kernel|INFO: rcu_"
)
_END = re.compile(r"---\[ end trace")
_LINES = 60


class KernelLog:
    """Reads ``/dev/kmsg`` (Documentation/ABI/testing/dev-kmsg) from now on."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def splat(self) -> str:
        """The first splat since the last call, with what follows it; empty when there was none."""
        return first_splat(self._new())

    def _new(self) -> list[str]:
        lines: list[str] = []
        while True:
            try:
                record = os.read(self._fd, _RECORD)
            except BlockingIOError:
                return lines
            except BrokenPipeError:
                continue  # what was next has been overwritten: the rest is there
            text = record.decode(errors="replace").partition(";")[2]
            lines.append(text.splitlines()[0] if text else "")


def first_splat(lines: list[str]) -> str:
    """The first splat among lines of the kernel's log, to its end; empty when there is none."""
    start = next((number for number, line in enumerate(lines) if _SPLAT.search(line)), None)
    if start is None:
        return ""
    found = lines[start : start + _LINES]
    end = next((number for number, line in enumerate(found) if _END.search(line)), len(found))
    return "\n".join(found[: end + 1])
