"""What a kernel says on its console, and what that means for the guest."""

from __future__ import annotations

import re

from testbed.guest.state import GuestState

_KEPT = 64 * 1024
_TAIL_LINES = 40
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_STAMP = re.compile(r"^\[\s*\d+\.\d+\]\s*")
_OUT_OF_MEMORY = re.compile(
    r"Out of memory: Killed|Out of memory and no killable|System is deadlocked on memory|"
    r"Initramfs unpacking failed: write error"  # its root file system is memory
)
_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
# What a kernel cannot go on without; another panic has nothing to do with what was killed before.
_FOR_LACK = re.compile(r"System is deadlocked on memory|Attempted|No working init|Unable to mount root")


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
        panic = next((match[1] for line in self._lines() if (match := _PANIC.search(line))), None)
        lack = self.out_of_memory()
        if lack and (panic is None or _FOR_LACK.search(panic)):
            return GuestState.OUT_OF_MEMORY, lack
        return None if panic is None else (GuestState.PANIC, panic)

    def out_of_memory(self) -> str:
        """The kernel's words when memory ran out; empty when it did not."""
        return next((line for line in self._lines() if _OUT_OF_MEMORY.search(line)), "")

    def _lines(self) -> list[str]:
        return [_STAMP.sub("", line) for line in self.text.splitlines()]
