"""Kernel socket states: every change of a TCP socket's state in a lab, as the kernel makes it.

A BPF program on the tracepoint ``inet_sock_set_state`` (Linux 4.16; as a BTF-typed one 5.5) sees the
changes of every socket, whatever flags a program under test has set on it. It sees full sockets only: a
handshake's request is none, so that a server's connection begins with its change to SYN_RECV, and what
TIME_WAIT leaves behind is none either, so that its last change is to CLOSE.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence, Set
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from socket import AF_INET
from typing import NamedTuple

from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.features import BTF
from testbed.bpf.libbpf import checked, open_library
from testbed.bpf.maps import Map, RingReader
from testbed.bpf.program_set import Program, ProgramSet
from testbed.closing import Closing
from testbed.errors import EventsLost, MachineError, TestbedError, UsageError, errno_name
from testbed.kernel.sockdiag import TcpState
from testbed.lab.family import Address, ConnTuple, unmapped_bytes
from testbed.lab.lab import Lab
from testbed.observe.own_object import can_load, load_object, object_sources

RING_BYTES = 1 << 20
"""14,500 changes: 1,800 connections between two reads."""

_CHANGE = struct.Struct("=QQI BB HHH 4x 16s16s")  # struct state_change of bpf/states.c
_TYPEDEF = b"btf_trace_inet_sock_set_state\0"
_STATES = {state.value: state for state in TcpState}


@cache
def states_absent(btf: Path = BTF) -> str:
    """Why states cannot be recorded here; empty where they can.

    Then they are what sock_diag shows when somebody asks, and what callbacks carry.
    """
    try:
        known = _TYPEDEF in btf.read_bytes()
    except OSError as error:
        return f"socket states: the kernel has no BTF ({errno_name(error.errno or 0)})"
    if not known:
        return "socket states: the kernel has no tracepoint inet_sock_set_state for BPF (CONFIG_BPF_EVENTS)"
    if not can_load(object_sources("states")):
        return "socket states: there is no clang, and bcc cannot build bpf/states.c"
    return ""


class StateChange(NamedTuple):
    """One change. ``time_ns`` is CLOCK_MONOTONIC; ports in host order; mapped addresses are IPv4.

    ``cookie`` is 0 for a socket that had none yet (before Linux 5.12). ``family`` is the socket's own.
    """

    time_ns: int
    cookie: int
    host: str
    old: TcpState
    new: TcpState
    family: int
    local: Address
    local_port: int
    remote: Address
    remote_port: int

    @property
    def tuple(self) -> ConnTuple | None:
        """From this socket to its peer; None where its port is not known."""
        if not self.local_port:
            return None
        return ConnTuple(self.local, self.local_port, self.remote, self.remote_port)


class StatesProgram(Closing):
    """The program, loaded and attached once a process; labs are watched with `states`.

    The kernel changes its own code when the first program is attached to the tracepoint.
    """

    def __init__(self, loader: ObjectLoader | None = None, ring_bytes: int = RING_BYTES) -> None:
        """`MachineError` where `states_absent` says why; ``ring_bytes`` is a power of two of pages."""
        if why := states_absent():
            raise MachineError("record socket states", why.removeprefix("socket states: "))
        sizes = LoadOptions(max_entries={"state_changes": ring_bytes})
        with ExitStack() as stack:
            loaded = load_object(object_sources("states"), loader, sizes)
            stack.callback(loaded.close)
            stack.callback(os.close, _attached(_chosen(loaded)))
            self._undo = stack.pop_all()
        self._set = loaded
        self.ring: RingReader = loaded.maps["state_changes"].reader
        self.namespaces: Map = loaded.maps["state_netns"]

    def states(self, lab: Lab) -> States:
        """Records the changes of a lab until that is closed. `UsageError` while another is open."""
        if self._set.in_use:
            raise UsageError(
                f"record the states of {lab!r}", "another lab's are being recorded", "close that recording"
            )
        return States(self._set, self.ring, lab)

    def close(self) -> None:
        self._undo.close()


def _chosen(loaded: ProgramSet) -> Program:
    """The program that gives cookies, else the one that can do without."""
    for name in ("states", "states_before_5_12"):
        if name in loaded.programs:
            return loaded.programs[name]
    error: TestbedError = loaded.failures[-1].error()
    raise error


def _attached(program: Program) -> int:
    """Returns the descriptor of its bpf_link: the tracepoint is the one that it was loaded for."""
    return checked(_library().bpf_raw_tracepoint_open(None, program.fd), "bpf_raw_tracepoint_open")


@cache
def _library() -> ctypes.CDLL:
    return open_library(
        (("bpf_raw_tracepoint_open", ctypes.c_int, (ctypes.c_char_p, ctypes.c_int)),),
    )


def _with_ports(changes: Sequence[StateChange]) -> list[StateChange]:
    """A socket gets its port after its change to SYN_SENT and loses it before that to CLOSE.

    It is the one that it has on the other side of the change.
    """
    made = list(changes)
    for step, other, places in (
        (TcpState.CLOSE, TcpState.SYN_SENT, range(len(made))),
        (TcpState.SYN_SENT, TcpState.CLOSE, range(len(made) - 1, -1, -1)),
    ):
        ports: dict[int, tuple[Address, int]] = {}
        for place in places:
            each = made[place]
            if each.local_port:
                ports[each.cookie] = each.local, each.local_port
            elif each.new is other:  # a socket may connect again, from another port
                ports.pop(each.cookie, None)
            elif each.new is step and each.cookie in ports:
                local, port = ports[each.cookie]
                made[place] = each._replace(local=local, local_port=port)
    return made


class States(Closing):
    """The changes of one lab so far. `EventsLost` when the ring was full."""

    def __init__(self, loaded: ProgramSet, ring: RingReader, lab: Lab) -> None:
        self._ring = ring
        self._lost_counter = loaded.maps["states_lost"]
        self._taken: list[bytes] = []
        self._changes: list[StateChange] = []
        self._closed = False
        self._hosts = {os.fstat(host.namespace.netns_fd).st_ino: name for name, host in lab.hosts.items()}
        with ExitStack() as stack:
            loaded.in_use = True
            stack.callback(setattr, loaded, "in_use", False)
            self._ring.take()  # a lab before this one may have left some
            self._lost_before = self._count()
            namespaces = loaded.maps["state_netns"]
            for inode in self._hosts:
                namespaces.set(inode.to_bytes(4, "little"), bytes(4))
                stack.callback(namespaces.delete, inode.to_bytes(4, "little"))
            self._undo = stack.pop_all()

    def _count(self) -> int:
        return int.from_bytes(self._lost_counter.get(bytes(4)) or b"", "little")

    @property
    def lost(self) -> int:
        """How many changes the ring had no room for."""
        return self._count() - self._lost_before

    def _take_in(self) -> None:
        if not self._closed:
            self._taken += self._ring.take()

    def read(self) -> None:
        """Takes in what has come, as it is. `EventsLost`."""
        self._take_in()
        if not self._closed and (lost := self.lost):
            raise EventsLost(
                f"{lost} changes of socket states were lost: their ring was full; read it more often"
            )

    @property
    def changes(self) -> list[StateChange]:
        """Everything so far, oldest first. Decoded now; readable after `close` too."""
        self._take_in()
        made = [change for data in self._taken if (change := self._decode(data)) is not None]
        self._taken.clear()
        self._changes = _with_ports([*self._changes, *made])
        return list(self._changes)

    def _decode(self, data: bytes) -> StateChange | None:
        """None for one of a lab before this one."""
        time_ns, cookie, netns, old, new, family, local_port, remote_port, *ends = _CHANGE.unpack(data)
        host = self._hosts.get(netns)
        if host is None:
            return None
        size = 4 if family == AF_INET else 16
        local, remote = (unmapped_bytes(each[:size]) for each in ends)
        before, after = _STATES.get(old) or TcpState(old), _STATES.get(new) or TcpState(new)
        return StateChange(
            time_ns, cookie, host, before, after, family, local, local_port, remote, remote_port
        )

    def __len__(self) -> int:
        """How many changes were taken in."""
        return len(self._changes) + len(self._taken)

    def fileno(self) -> int:
        """A descriptor that is readable when a change has come."""
        return self._ring.fileno()

    def pending(self, present: Set[int]) -> list[str]:
        """Nothing: the kernel makes a change before it sends what follows from it."""
        del present
        return []

    def story(self) -> str:
        """How many changes there were."""
        return f"changes of socket states: {len(self)}"

    def close(self) -> None:
        """Takes in the last of it and ends; what was recorded stays."""
        self._take_in()
        self._closed = True
        self._undo.close()
