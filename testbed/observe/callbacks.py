"""A sockops callback, as the tap records it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import NamedTuple

from testbed.kernel.sockdiag import TcpState
from testbed.lab.family import Address, endpoint, unmapped_bytes

_EVENT = struct.Struct("=3Q I3I 5I4x 16s16s 2Q4I")  # struct tap_event of bpf/include/tap_maps.h


class Op(IntEnum):
    """Which callback: BPF_SOCK_OPS_… of ``include/uapi/linux/bpf.h``, without prefix and ``_CB``."""

    VOID = 0
    TIMEOUT_INIT = 1
    RWND_INIT = 2
    TCP_CONNECT = 3
    ACTIVE_ESTABLISHED = 4
    PASSIVE_ESTABLISHED = 5
    NEEDS_ECN = 6
    BASE_RTT = 7
    RTO = 8
    RETRANS = 9
    STATE = 10
    TCP_LISTEN = 11
    RTT = 12
    PARSE_HDR_OPT = 13
    HDR_OPT_LEN = 14
    WRITE_HDR_OPT = 15

    @classmethod
    def _missing_(cls, value: object) -> Op:
        """A callback of a newer kernel: recorded all the same, as OP_<number>."""
        other = int.__new__(cls, int(str(value)))
        other._name_ = f"OP_{value}"
        other._value_ = int(str(value))
        return other


class CallbackFlag(IntFlag):
    """``bpf_sock_ops_cb_flags`` of a socket: which optional callbacks it has."""

    RTO = 1
    RETRANS = 2
    STATE = 4
    RTT = 8
    PARSE_ALL_HDR_OPT = 16
    PARSE_UNKNOWN_HDR_OPT = 32
    WRITE_HDR_OPT = 64


class Figures(NamedTuple):
    """What the kernel has counted on a socket: bytes (a FIN counts one), round trips in microseconds.

    ``srtt_us`` is eight times that. All are 0 of a request, which is no full socket yet.
    """

    bytes_acked: int
    bytes_received: int
    srtt_us: int
    rtt_min: int
    total_retrans: int
    lost_out: int


class Callback(NamedTuple):
    """One callback. ``time_ns`` is CLOCK_MONOTONIC; ports in host order; mapped addresses are IPv4.

    ``family`` is the socket's own (AF_INET6 for a v4-mapped one); ``host`` the host whose socket it
    is (None before Linux 5.15). ``flags`` are those that the socket had after the programs below,
    ``figures`` what they could read there: nothing changes between two programs of one callback.
    """

    time_ns: int
    cookie: int
    host: str | None
    op: Op
    args: tuple[int, int, int]
    family: int
    state: TcpState
    flags: CallbackFlag
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    figures: Figures

    @property
    def change(self) -> tuple[TcpState, TcpState]:
        """Of a STATE callback: the state before and after."""
        before, after, _ = self.args
        return _STATES.get(before) or TcpState(before), _STATES.get(after) or TcpState(after)

    def __str__(self) -> str:
        ends = f"{endpoint(self.local, self.local_port)} – {endpoint(self.remote, self.remote_port)}"
        detail = f" {' → '.join(state.name for state in self.change)}" if self.op is Op.STATE else ""
        flags = f" flags={'|'.join(flag.name or '?' for flag in self.flags)}" if self.flags else ""
        return f"{self.host or '?':<8} {self.op.name}{detail} {ends} cookie={self.cookie}{flags}"


def _address(family: int, data: bytes) -> Address:
    return unmapped_bytes(data[:4] if family == socket.AF_INET else data)


# By number: an Enum's own way to a member takes ten times as long.
_OPS = {op.value: op for op in Op}
_STATES = {state.value: state for state in TcpState}


@lru_cache(maxsize=256)
def _flags(number: int) -> CallbackFlag:
    return CallbackFlag(number)


def decode_callback(data: bytes, host_of: Callable[[int], str | None]) -> Callback | None:
    """A callback from the tap's ring. None for one of a namespace that ``host_of`` does not know.

    That is of a lab which this process had before. Without a cookie (Linux before 5.15) all are taken.
    """
    time_ns, cookie, netns, op, *rest = _EVENT.unpack(data)
    *args, family, state, flags, local_port, remote_port, local, remote = rest[:10]
    host = host_of(netns) if netns else None
    if netns and host is None:
        return None
    return Callback(
        time_ns,
        cookie,
        host,
        _OPS.get(op) or Op(op),
        (args[0], args[1], args[2]),
        family,
        _STATES.get(state) or TcpState(state),
        _flags(flags),
        _address(family, local),
        local_port,
        _address(family, remote),
        remote_port,
        Figures(*rest[10:]),
    )
