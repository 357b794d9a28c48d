"""What a kernel says on its console, and what that means for the guest."""

from __future__ import annotations

import re

from testbed.guest.state import GuestState

_KEPT = 64 * 1024
_TAIL_LINES = 40
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_STAMP = re.compile(r"^\[\s*\d+\.\d+\]\s*")
_OUT_OF_MEMORY = re.compile(
    r"Out of memory: Killed|out of memory and no killable|System is deadlocked on memory"
)
_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")


class Console:
    """The last of what came from a guest's console."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> None:
        """Takes in more."""
        self._data = (self._data + data)[-_KEPT:]

    @property
    def text(self) -> str:
        """All that is kept, without what moves a cursor."""
        return _CONTROL.sub("", self._data.decode(errors="replace").replace("\r", ""))

    @property
    def tail(self) -> str:
        """The last lines."""
        return "\n".join(self.text.splitlines()[-_TAIL_LINES:])

    def verdict(self) -> tuple[GuestState, str] | None:
        """Out of memory, or a panic, with the kernel's own words for it; None for neither."""
        lines = [_STAMP.sub("", line) for line in self.text.splitlines()]
        for line in lines:
            if _OUT_OF_MEMORY.search(line):
                return GuestState.OUT_OF_MEMORY, line
        for line in lines:
            if match := _PANIC.search(line):
                return GuestState.PANIC, match[1]
        return None
