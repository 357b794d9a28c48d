"""What the kernel asks of a process for each thing that a lab does: its capabilities (capabilities(7)).

Root has them all, and a process of another user can have those that are needed. What is refused for
the want of one is told by its name.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import MachineError, errno_name

BITS = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_KILL": 5,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_ADMIN": 21,
}
"""include/uapi/linux/capability.h"""
NEEDED_FOR = {
    "CAP_SYS_ADMIN": "make and enter network namespaces, and load BPF programs",
    "CAP_NET_ADMIN": "make links, set addresses, routes and sysctls, and attach BPF programs",
    "CAP_NET_RAW": "see, hold and send packets",
    "CAP_DAC_OVERRIDE": "make a cgroup below the root of cgroup v2, which nobody may write to",
    "CAP_KILL": "end the processes of another user",
}
"""What each is for, in a lab."""
LAB = ("CAP_NET_ADMIN", "CAP_SYS_ADMIN")
"""Without these there is no lab at all."""
SCENARIOS = (*LAB, "CAP_NET_RAW")
"""They record packets and hold them."""
WHAT_IS_NEEDED = "docs/privileges.md says what is needed, and how to give it"
_REFUSED = {errno.EPERM, errno.EACCES}


def missing(names: Iterable[str]) -> list[str]:
    """Those of the names that are not in this process's effective set."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    return [name for name in names if not effective >> BITS[name] & 1]


def lacks(names: Iterable[str]) -> str:
    """``it lacks CAP_NET_RAW, which it needs to …``; empty where nothing is missing."""
    absent = missing(names)
    if not absent:
        return ""
    reasons = "; ".join(f"{name}, which it needs to {NEEDED_FOR[name]}" for name in absent)
    return f"this process lacks {reasons}"


def refusal(number: int, *names: str) -> str:
    """An errno's name, and where it is a refusal which of the capabilities ``names`` is missing.

    Where none is missing the process can still be in a user namespace, in which they count for nothing.
    """
    why = errno_name(number)
    if abs(number) not in _REFUSED:
        return why
    absent = missing(names)
    if absent:
        return f"{why}; {lacks(absent)}"
    if in_user_namespace():
        return f"{why}; this process is in a user namespace, where its capabilities are not the machine's"
    return why


@contextmanager
def needing(what: str, *names: str) -> Iterator[None]:
    """A refusal (EPERM) within the block is a `MachineError` where it is for the want of these."""
    try:
        yield
    except PermissionError as error:
        if why := lacks(names):
            raise MachineError(what, why) from error
        raise


def in_user_namespace() -> bool:
    """Whether this process is in another user namespace than the machine's first one."""
    try:
        words = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    except OSError:
        return False  # a kernel without user namespaces
    return words != ["0", "0", "4294967295"]


def need(what: str, names: Iterable[str] = LAB, why: str = "it needs root; run it with sudo") -> None:
    """`MachineError` where a capability is missing: before anything is tried.

    To a person who is not root it says ``why``, and no word of capabilities.
    """
    absent = missing(names)
    if not absent:
        return
    if os.geteuid() != 0 and len(missing(BITS)) == len(BITS):  # nobody who has been given some
        raise MachineError(what, why)
    raise MachineError(what, lacks(absent), WHAT_IS_NEEDED)


def need_root(what: str, names: Iterable[str] = SCENARIOS) -> None:
    """`MachineError` for who has not the capabilities of root, before anything is tried."""
    need(
        what,
        names,
        why="it needs root, to make namespaces and cgroups and to load BPF programs; run it with sudo",
    )
