"""What the kernel itself counts of BPF programs: runs, nanoseconds, sizes, memory of their maps."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import ExitStack
from ctypes import byref, c_int, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import NamedTuple

from testbed.acquired import acquired
from testbed.bpf.libbpf import Signature, checked, open_library
from testbed.bpf.maps import Map
from testbed.errors import errno_name

_RUN_TIME = 0  # enum bpf_stats_type: BPF_STATS_RUN_TIME
_INFO, _RUN_TIME_NS = 220, 192  # struct bpf_prog_info up to verified_insns; run_time_ns, run_cnt (Linux 5.1)
_SYSCTL = Path("/proc/sys/kernel/bpf_stats_enabled")
_CALLS: tuple[Signature, ...] = (
    ("bpf_enable_stats", c_int, (c_int,)),
    ("bpf_obj_get_info_by_fd", c_int, (c_int, c_void_p, c_void_p)),
)


@cache
def _library() -> ctypes.CDLL:
    return open_library(_CALLS)


class Runs(NamedTuple):
    """How often something ran, and for how many nanoseconds in all."""

    times: int
    ns: int

    def __sub__(self, other: Runs) -> Runs:
        return Runs(self.times - other.times, self.ns - other.ns)


def enable_statistics(stack: ExitStack) -> str:
    """Has the kernel time every BPF program of the machine until ``stack`` closes (BPF_ENABLE_STATS, 5.8).

    Returns why it does not; empty where it does.
    """
    try:
        fd = checked(_library().bpf_enable_stats(_RUN_TIME), "BPF_ENABLE_STATS")
    except OSError as error:
        return f"the kernel does not time BPF programs: {errno_name(error.errno or 0)} (Linux 5.8 does)"
    acquired("descriptor", fd)
    stack.callback(os.close, fd)
    return ""


def always_on() -> bool:
    """Whether somebody has it switched on for good, by the sysctl kernel.bpf_stats_enabled (Linux 5.1)."""
    return _SYSCTL.exists() and _SYSCTL.read_text(encoding="ascii").strip() != "0"


def runs_of(program_fd: int) -> Runs:
    """What has been counted of a program so far, while that was on."""
    info = ctypes.create_string_buffer(_INFO)
    size = c_uint32(len(info))
    checked(_library().bpf_obj_get_info_by_fd(program_fd, info, byref(size)), "BPF_OBJ_GET_INFO_BY_FD")
    ns, count = struct.unpack_from("=QQ", info, _RUN_TIME_NS)
    return Runs(count, ns)


def locked_memory(each: Map) -> int:
    """The bytes of kernel memory that a map takes, by its fdinfo (bpf_map_show_fdinfo)."""
    for line in Path(f"/proc/self/fdinfo/{each.fd}").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "memlock":
            return int(value)
    return 0
