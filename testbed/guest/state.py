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

    @property
    def advice(self) -> str:
        """What to do about it; empty for a guest that did what it was asked for."""
        return _ADVICE[self]


_ADVICE = {
    GuestState.BOOTED: "",
    GuestState.NO_BOOT: "a guest's kernel needs CONFIG_PVH (or a bzImage), CONFIG_SERIAL_8250_CONSOLE, "
    "CONFIG_BLK_DEV_INITRD and CONFIG_DEVTMPFS built in, for this architecture",
    GuestState.PANIC: "the kernel's last words are above; `testbed vm` gives a shell in such a guest",
    GuestState.HANG: "look at what it does in a shell there (`testbed vm`), or allow it more time",
    GuestState.OUT_OF_MEMORY: "give the guest more memory",
    GuestState.LOST: "run it again; if QEMU was killed, this machine's `dmesg` may say why",
    GuestState.NO_BPF: "build it with CONFIG_BPF_SYSCALL=y and CONFIG_CGROUP_BPF=y",
}


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
