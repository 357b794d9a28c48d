"""The kinds of programs and maps that the testbed handles, by the kernel's numbers.

Numbers are those of ``enum bpf_prog_type``, ``enum bpf_attach_type`` and ``enum bpf_map_type`` in
``include/uapi/linux/bpf.h``; they are ABI.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


@dataclass(frozen=True)
class _Kind:
    section: str
    prog_type: int
    attach_type: int


class ProgramKind(Enum):
    """What a program is attached to. The value holds the ELF section and the kernel's numbers."""

    SOCKOPS = _Kind("sockops", 13, 3)
    CONNECT4 = _Kind("cgroup/connect4", 18, 10)
    CONNECT6 = _Kind("cgroup/connect6", 18, 11)
    SK_MSG = _Kind("sk_msg", 16, 7)

    @property
    def section(self) -> str:
        return self.value.section

    @property
    def prog_type(self) -> int:
        return self.value.prog_type

    @property
    def attach_type(self) -> int:
        return self.value.attach_type

    @property
    def on_cgroup(self) -> bool:
        """Whether it is attached to a cgroup (else to a sockhash)."""
        return self is not ProgramKind.SK_MSG


class MapType(IntEnum):
    """The map types that the testbed knows by name."""

    HASH = 1
    ARRAY = 2
    SOCKHASH = 18
    SK_STORAGE = 24
    RINGBUF = 27
