"""What became of a guest, told apart from what became of the scenarios in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class GuestState(StrEnum):
    """How a guest ended."""

    BOOTED = "booted"
    """It did what it was asked for, to the end."""
    NO_BOOT = "no boot"
    """Its user space was never reached."""
    PANIC = "panic"
    HANG = "hang"
    """It said nothing for longer than a guest of its speed needs."""
    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"
    """QEMU ended, or was ended, in the middle."""
    NO_BPF = "BPF unsupported"
    """The kernel was built without what sockops programs need."""


@dataclass(frozen=True)
class GuestReport:
    """How a guest fared.

    ``release`` is what ``uname -r`` said in it, empty when it was not reached. ``ready`` is how many
    seconds passed from QEMU's start to the first scenario, None when there was none, ``seconds`` to its
    end. ``why`` is one line for a state other than BOOTED; ``console`` the last lines of the kernel's
    console then, or of its splat. ``warm`` tells that it was restored from a snapshot.
    """

    state: GuestState
    release: str = ""
    ready: float | None = None
    seconds: float = 0.0
    warm: bool = False
    accelerator: str = ""
    why: str = ""
    console: str = ""
