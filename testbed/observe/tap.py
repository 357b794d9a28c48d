"""The tap: every sockops callback of a lab, in order, recorded after the program under test ran.

Records nothing but what the kernel calls back. STATE_CB, for example, comes only for sockets on
which the program under test has set its flag: that is how the flag is proved.
"""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import overload

from testbed.bpf import libbpf
from testbed.bpf.attach import attach
from testbed.bpf.bcc_loader import SourceSet, load
from testbed.bpf.elf.clang import compile_objects
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.features import kernel_btf
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.probe import has_helper
from testbed.bpf.program_set import ProgramSet
from testbed.closing import Closing
from testbed.data import data_dir
from testbed.errors import EventsLost, UsageError
from testbed.kernel.sockdiag import TcpState
from testbed.lab.family import Address, endpoint, unmapped
from testbed.lab.lab import Lab

_EVENT = struct.Struct("=3Q I3I 5I4x 16s16s")  # struct tap_event of bpf/include/tap_maps.h
_GET_NETNS_COOKIE = 122  # enum bpf_func_id; in sockops programs since Linux 5.15


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


@dataclass(frozen=True)
class Callback:
    """One callback. ``time_ns`` is CLOCK_MONOTONIC; ports in host order; mapped addresses are IPv4.

    ``family`` is the socket's own (AF_INET6 for a v4-mapped one); ``host`` the host whose socket it
    is (None before Linux 5.15). ``flags`` are those that the socket had after the programs below.
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

    @property
    def change(self) -> tuple[TcpState, TcpState]:
        """Of a STATE callback: the state before and after."""
        return TcpState(self.args[0]), TcpState(self.args[1])

    def __str__(self) -> str:
        ends = f"{endpoint(self.local, self.local_port)} – {endpoint(self.remote, self.remote_port)}"
        detail = f" {' → '.join(state.name for state in self.change)}" if self.op is Op.STATE else ""
        flags = f" flags={'|'.join(flag.name or '?' for flag in self.flags)}" if self.flags else ""
        return f"{self.host or '?':<8} {self.op.name}{detail} {ends} cookie={self.cookie}{flags}"


def _address(family: int, data: bytes) -> Address:
    size = 4 if family == socket.AF_INET else 16
    return unmapped(socket.inet_ntop(family, data[:size]))


def _load_tap(loader: ObjectLoader | None) -> ProgramSet:
    """By clang and libbpf, which takes a quarter of the time; by bcc where there is no clang."""
    bpf = data_dir("bpf")
    has_cookie = has_helper(ProgramKind.SOCKOPS.prog_type, _GET_NETNS_COOKIE)
    sources = SourceSet(
        name="tap",
        sources=(bpf / "tap.c",),
        include=(bpf / "include",),
        programs=(("tap", ProgramKind.SOCKOPS),),
        maps=("tap_events", "tap_lost"),
        defines=("HAVE_NETNS_COOKIE",) if has_cookie else (),
    )
    if shutil.which("clang") is None:
        return load(sources)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        objects = compile_objects(sources.sources, sources.include, folder, sources.defines)
        made = load_objects(loader or stack.enter_context(ObjectLoader()), objects)
    for failure in made.failures:
        made.close()
        raise failure.error()
    return made


class TapProgram(Closing):
    """The tap's program, loaded once a process; labs are tapped with `tap`."""

    def __init__(self, loader: ObjectLoader | None = None) -> None:
        """``loader`` is one that is there already."""
        kernel_btf()
        self._set: ProgramSet = _load_tap(loader)

    def tap(self, lab: Lab) -> Tap:
        """Records the callbacks of a lab until the tap is closed. `UsageError` while another is open."""
        if self._set.in_use:
            raise UsageError(
                f"tap {lab!r}",
                "the program taps another lab, and its ring is one's at a time",
                "close that tap first",
            )
        return Tap(self._set, lab)

    def close(self) -> None:
        self._set.close()


class Tap(Sequence[Callback], Closing):
    """The callbacks of one lab so far, oldest first. Reading takes in what has come meanwhile.

    `EventsLost` when the ring was full: what is there is then not all.
    """

    def __init__(self, program_set: ProgramSet, lab: Lab) -> None:
        self._lab = lab
        self._lost_counter = program_set.maps["tap_lost"]
        self._lost_before = 0
        self._raw: list[bytes] = []
        self._callbacks: list[Callback] = []
        self._closed = False
        with ExitStack() as stack:
            program_set.in_use = True
            stack.callback(setattr, program_set, "in_use", False)
            ring = program_set.maps["tap_events"]
            self._ring = libbpf.RingConsumer(ring.fd, self._raw.append)
            stack.callback(self._ring.close)
            self._ring.consume()  # a lab before this one may have left some
            self._raw.clear()
            self._lost_before = self._lost()
            attach(program_set.programs["tap"], lab.observer_fd, stack)
            lab.witnesses.append(self)
            stack.callback(lab.witnesses.remove, self)
            self._undo = stack.pop_all()

    def _lost(self) -> int:
        """How many since this tap was made: the program counts on for all of its labs."""
        return int.from_bytes(self._lost_counter.get(bytes(4)) or b"", "little") - self._lost_before

    def _take_in(self) -> None:
        self._ring.consume()
        while self._raw:
            self._add(self._raw.pop(0))

    def _add(self, data: bytes) -> None:
        (time_ns, cookie, netns, op, *args, family, state, flags, local_port, remote_port, local, remote) = (
            _EVENT.unpack(data)
        )
        host = self._lab.host_of_cookie(netns) if netns else None
        if netns and host is None:
            return  # of a lab that this process had before
        self._callbacks.append(
            Callback(
                time_ns,
                cookie,
                host,
                Op(op),
                (args[0], args[1], args[2]),
                family,
                TcpState(state),
                CallbackFlag(flags),
                _address(family, local),
                local_port,
                _address(family, remote),
                remote_port,
            )
        )

    def read(self) -> None:
        """Takes in what has come."""
        self._take_in()
        if lost := self._lost():
            raise EventsLost(f"the tap lost {lost} callbacks: its ring was full; read it more often")

    def fileno(self) -> int:
        """A descriptor that is readable when a callback has come."""
        return self._ring.fileno()

    def of(self, sock: socket.socket, op: Op | None = None) -> list[Callback]:
        """The callbacks of one socket (by its cookie), of one kind if asked.

        Of a server's socket that is from ESTABLISHED on: what came before is its request's, which
        may have another cookie.
        """
        cookie = socket_cookie(sock)
        return [each for each in self if each.cookie == cookie and op in {None, each.op}]

    def pending(self, present: Set[int]) -> list[str]:
        """Sockets that have the STATE flag and are gone, whose callback to CLOSE has not come yet."""
        last: dict[int, Callback] = {}
        for each in self:
            if each.flags & CallbackFlag.STATE:
                last[each.cookie] = each
        return [
            f"the callback to CLOSE of: {each}"
            for cookie, each in last.items()
            if cookie not in present and not (each.op is Op.STATE and each.change[1] is TcpState.CLOSE)
        ]

    def story(self) -> str:
        """The callbacks so far, a line each, with the time since the first in microseconds."""
        lost = 0
        if not self._closed:
            self._take_in()
            lost = self._lost()
        if not self._callbacks:
            return "callbacks that fired: none"
        start = self._callbacks[0].time_ns
        lines = [f"    {(each.time_ns - start) / 1000:>9.1f} µs  {each}" for each in self._callbacks]
        title = "callbacks that fired" + (f" (and {lost} that were lost: the ring was full)" if lost else "")
        return "\n".join([f"{title}:", *lines])

    def __len__(self) -> int:
        self.read()
        return len(self._callbacks)

    @overload
    def __getitem__(self, index: int) -> Callback: ...
    @overload
    def __getitem__(self, index: slice) -> list[Callback]: ...
    def __getitem__(self, index: int | slice) -> Callback | list[Callback]:
        self.read()
        return self._callbacks[index]

    def __iter__(self) -> Iterator[Callback]:
        self.read()
        return iter(list(self._callbacks))

    def close(self) -> None:
        """Detaches; what was recorded stays readable through `story`."""
        self._closed = True
        self._undo.close()


_SO_COOKIE = 57  # Linux 4.12; not in Python's socket module


def socket_cookie(sock: socket.socket) -> int:
    """The kernel's number of a socket, the same in callbacks and in sock_diag."""
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")
