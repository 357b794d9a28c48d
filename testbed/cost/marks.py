"""The time of each kind of sockops callback: by a program ahead of those under test, and one behind them.

That needs no tracing of programs, which kernels have for some architectures and some objects only.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack

from testbed.bpf.attach import attach
from testbed.bpf.bcc_loader import SourceSet
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.own_program import load_own
from testbed.bpf.program_set import ProgramSet
from testbed.closing import Closing
from testbed.cost.counters import Runs
from testbed.data import data_dir
from testbed.lab.lab import Lab

NOTHING = "nothing"
_PROGRAMS = ("mark_begin", "mark_end", NOTHING)
_OPS = 32
_CPU = struct.Struct(f"=8x Q 64x {2 * _OPS}Q")  # struct mark_cpu of bpf/include/mark_maps.h
_FIRST = bytes(4)


def mark_sources() -> SourceSet:
    """The marks, and a program that does nothing."""
    bpf = data_dir("bpf")
    return SourceSet(
        name="mark",
        sources=(bpf / "mark.c",),
        include=(bpf / "include",),
        programs=tuple((name, ProgramKind.SOCKOPS) for name in _PROGRAMS),
        maps=("mark_cpus",),
    )


class Marks(Closing):
    """Loaded once. What runs between them is added up, of all labs that they are attached to."""

    def __init__(self, loader: ObjectLoader) -> None:
        self._set: ProgramSet = load_own(mark_sources(), loader)

    def attach(self, lab: Lab, stack: ExitStack) -> None:
        """Around what is attached to the lab's cgroup: a child's programs run first, its parent's last."""
        for host in lab.hosts.values():
            attach(self._set.programs["mark_begin"], host.cgroup_fd, stack)
        attach(self._set.programs["mark_end"], lab.observer_fd, stack)

    def attach_nothing(self, lab: Lab, stack: ExitStack) -> int:
        """Has a program at work there that does nothing. Returns its descriptor, the set's own."""
        program = self._set.programs[NOTHING]
        attach(program, lab.cgroup_fd, stack)
        return program.fd

    def read(self) -> tuple[Mapping[int, Runs], int]:
        """So far: the runs of each callback by its number, and how many could not be timed."""
        counts: Counter[int] = Counter()
        times: Counter[int] = Counter()
        lost = 0
        for each in _CPU.iter_unpack(self._set.maps["mark_cpus"].get(_FIRST) or b""):
            lost += each[0]
            for op, (count, ns) in enumerate(zip(each[1::2], each[2::2], strict=True)):
                counts[op] += count
                times[op] += ns
        return {op: Runs(count, times[op]) for op, count in counts.items() if count}, lost

    def close(self) -> None:
        self._set.close()
