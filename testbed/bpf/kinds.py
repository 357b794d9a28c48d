"""The kinds of programs and maps that the testbed handles, by the kernel's numbers.

Numbers are those of ``enum bpf_prog_type``, ``enum bpf_attach_type`` and ``enum bpf_map_type`` in
``include/uapi/linux/bpf.h``; they are ABI.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Target(Enum):
    """What a program can be attached to."""

    CGROUP = "a cgroup"
    SOCKMAP = "a sockhash or sockmap"
    INTERFACE = "an interface"
    MAP = "a map"
    """Of another type than those above: nothing is attached to it."""


@dataclass(frozen=True)
class _Kind:
    section: str
    prog_type: int
    attach_type: int
    target: Target = Target.CGROUP


class ProgramKind(Enum):
    """What a program is attached to. The value holds the ELF section and the kernel's numbers."""

    SOCKOPS = _Kind("sockops", 13, 3)
    CONNECT4 = _Kind("cgroup/connect4", 18, 10)
    CONNECT6 = _Kind("cgroup/connect6", 18, 11)
    BIND4 = _Kind("cgroup/bind4", 18, 8)
    BIND6 = _Kind("cgroup/bind6", 18, 9)
    SENDMSG4 = _Kind("cgroup/sendmsg4", 18, 14)
    SENDMSG6 = _Kind("cgroup/sendmsg6", 18, 15)
    RECVMSG4 = _Kind("cgroup/recvmsg4", 18, 19)
    RECVMSG6 = _Kind("cgroup/recvmsg6", 18, 20)
    GETPEERNAME4 = _Kind("cgroup/getpeername4", 18, 29)
    GETPEERNAME6 = _Kind("cgroup/getpeername6", 18, 30)
    GETSOCKNAME4 = _Kind("cgroup/getsockname4", 18, 31)
    GETSOCKNAME6 = _Kind("cgroup/getsockname6", 18, 32)
    SOCK_CREATE = _Kind("cgroup/sock_create", 9, 2)
    SOCK_RELEASE = _Kind("cgroup/sock_release", 9, 34)
    POST_BIND4 = _Kind("cgroup/post_bind4", 9, 12)
    POST_BIND6 = _Kind("cgroup/post_bind6", 9, 13)
    GETSOCKOPT = _Kind("cgroup/getsockopt", 25, 21)
    SETSOCKOPT = _Kind("cgroup/setsockopt", 25, 22)
    SKB_INGRESS = _Kind("cgroup_skb/ingress", 8, 0)
    SKB_EGRESS = _Kind("cgroup_skb/egress", 8, 1)
    SK_MSG = _Kind("sk_msg", 16, 7, Target.SOCKMAP)
    SK_SKB_PARSER = _Kind("sk_skb/stream_parser", 14, 4, Target.SOCKMAP)
    SK_SKB_VERDICT = _Kind("sk_skb/stream_verdict", 14, 5, Target.SOCKMAP)
    XDP = _Kind("xdp", 6, 37, Target.INTERFACE)
    TC_INGRESS = _Kind("tcx/ingress", 3, 46, Target.INTERFACE)
    TC_EGRESS = _Kind("tcx/egress", 3, 47, Target.INTERFACE)

    def __init__(self, kind: _Kind) -> None:
        self.section = kind.section
        self.prog_type = kind.prog_type
        self.attach_type = kind.attach_type
        self.target = kind.target


_SCHED_CLS = 3
_CGROUP_SKB = 8
_BY_NUMBERS = {(kind.prog_type, kind.attach_type): kind for kind in ProgramKind}


def kind_of(prog_type: int, attach_type: int, section: str) -> ProgramKind | None:
    """The kind of a program, by the numbers that libbpf derives from its section.

    A classifier's section does not always say its direction: then it is ingress. None for programs
    that are attached to nothing that a lab has (tracing, for example).
    """
    if prog_type == _SCHED_CLS:
        return ProgramKind.TC_EGRESS if "egress" in section else ProgramKind.TC_INGRESS
    if prog_type == _CGROUP_SKB:
        return ProgramKind.SKB_EGRESS if "egress" in section else ProgramKind.SKB_INGRESS
    return _BY_NUMBERS.get((prog_type, attach_type))


class MapType(IntEnum):
    """``enum bpf_map_type`` (Linux 6.18)."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERF_EVENT_ARRAY = 4
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    STACK_TRACE = 7
    CGROUP_ARRAY = 8
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    DEVMAP = 14
    SOCKMAP = 15
    CPUMAP = 16
    XSKMAP = 17
    SOCKHASH = 18
    CGROUP_STORAGE = 19
    REUSEPORT_SOCKARRAY = 20
    PERCPU_CGROUP_STORAGE = 21
    QUEUE = 22
    STACK = 23
    SK_STORAGE = 24
    DEVMAP_HASH = 25
    STRUCT_OPS = 26
    RINGBUF = 27
    INODE_STORAGE = 28
    TASK_STORAGE = 29
    BLOOM_FILTER = 30
    USER_RINGBUF = 31
    CGRP_STORAGE = 32
    ARENA = 33
    INSN_ARRAY = 34


def map_type_name(number: int) -> str:
    """``hash``, ``sk_storage``; ``type 99`` for one that has no name here."""
    try:
        return MapType(number).name.lower()
    except ValueError:
        return f"type {number}"
