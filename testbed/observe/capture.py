"""The capture: every frame on the links of a lab, both ways, in one ring and on the tap's own clock.

A packet socket (AF_PACKET) in the namespace of a link's end sees what that end sends and receives. Its
filter is a BPF program, which copies the frame into a ring that is made once a process. The kernel's own
packet ring (PACKET_RX_RING) is no choice for short tests: ``packet_set_ring`` waits until no CPU can be
in the middle of a delivery, 15 ms each time (Linux 6.18, whatever the version and the size of the ring),
which is more than a whole test takes, and it hands frames over with CLOCK_REALTIME, by the block or in
slots of one size. Here a socket takes 0.2 ms to set up, a frame is in the ring before send() returns,
and its time is ``bpf_ktime_get_ns()``: CLOCK_MONOTONIC, as a callback's, with nothing to convert.

What an end sends is seen behind its tc programs of egress, what it receives before those of ingress: a
frame that was dropped on egress there has never been on the wire. A frame that segmentation offload
leaves in one piece is one frame. Checksums of what an end sends are not filled in: a veth never does.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Sequence, Set
from contextlib import ExitStack
from socket import AF_PACKET, SOCK_RAW, SOL_SOCKET, htons
from typing import NamedTuple

from testbed.acquired import acquired
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.maps import Map, RingReader
from testbed.bpf.program_set import Program
from testbed.closing import Closing
from testbed.errors import EventsLost, UsageError
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.lab.wiring import Wire
from testbed.observe.own_object import can_load, load_object, object_sources

RING_BYTES = 4 << 20
"""24,000 frames of up to 128 bytes: 2,400 connections between two reads."""

_ETH_P_ALL = 3
_HEADS = 2048
_SO_ATTACH_BPF = 50  # not in Python's socket module
_FRAME = struct.Struct("=QIIIHBB")  # struct frame of bpf/capture.c
_CAPTURE_AT = 22
_OUTGOING, _TAGGED = 1, 2
_MACS, _ETH_P_8021Q = 12, 0x8100
_PROGRAM = "capture_"


class Frame(NamedTuple):
    """A frame on a link: by number, from one of its hosts to the other. ``time_ns`` is CLOCK_MONOTONIC.

    ``data`` begins with the Ethernet header, and is all of it up to 64 KiB; ``length`` is that on the
    wire, in bytes.
    """

    time_ns: int
    link: int
    sender: str
    receiver: str
    data: bytes
    length: int


def capture_absent() -> str:
    """Why frames cannot be recorded here; empty where they can."""
    if can_load(object_sources("capture")):
        return ""
    return "frames: capture.c cannot be compiled without clang (apt-get install clang)"


class CaptureProgram(Closing):
    """The capture's program and ring, loaded once a process; labs are captured with `capture`."""

    def __init__(
        self, loader: ObjectLoader | None = None, ring_bytes: int = RING_BYTES, *, whole: bool = True
    ) -> None:
        """``ring_bytes`` is a power of two of pages; ``loader`` one that is there already.

        Unless ``whole``, no more than the first 2048 bytes of a frame are kept: a record in the ring has
        room for 64 KiB otherwise, where segmentation offload has left more than that in one piece.
        `MachineError` where there is neither clang nor the object, `ProgramError` when it is rejected.
        """
        sizes = LoadOptions(max_entries={"capture_frames": ring_bytes})
        self._set = load_object(object_sources("capture"), loader, sizes)
        for failure in self._set.failures:
            self._set.close()
            raise failure.error()
        if not whole:
            self._set.globals["longest"] = _HEADS
        self._ring: RingReader = self._set.maps["capture_frames"].reader
        self._free = [each for name, each in self._set.programs.items() if name.startswith(_PROGRAM)]
        self._open: dict[int, list[bytes]] = {}

    def capture(self, lab: Lab, links: Collection[int] | None = None) -> Capture:
        """Captures the links of a lab, or those of these numbers, until it is closed.

        Links are numbered as in the lab's wiring. `UsageError` when eight captures are open already.
        """
        return Capture(self, lab, links)

    def lend(self, stack: ExitStack) -> tuple[Program, list[bytes], Map]:
        """A program that marks its frames as its own, the list that these go into, and the lost by mark.

        Until ``stack`` closes. The one that was free longest: what a closing socket still sees goes nowhere.
        """
        if not self._free:
            raise UsageError("capture a lab", "eight captures are open already", "close one of them first")
        program = self._free.pop(0)
        stack.callback(self._free.append, program)
        taken: list[bytes] = []
        number = int(program.name.removeprefix(_PROGRAM))
        self._open[number] = taken
        stack.callback(self._open.pop, number)
        return program, taken, self._set.maps["capture_lost"]

    def take_in(self) -> None:
        """Gives each capture what has come."""
        for data in self._ring.take():
            taken = self._open.get(data[_CAPTURE_AT])
            if taken is not None:
                taken.append(data)

    def fileno(self) -> int:
        """A descriptor that is readable when a frame has come, of any capture."""
        return self._ring.fileno()

    def close(self) -> None:
        self._set.close()


class Capture(Closing):
    """The frames of one lab so far. `EventsLost` when the ring was full: what is there is then not all."""

    def __init__(self, program: CaptureProgram, lab: Lab, links: Collection[int] | None = None) -> None:
        self._program = program
        self._frames: list[Frame] = []
        wires = lab.wiring.wires
        self.link_names: tuple[str, ...] = tuple(f"{each.host}–{each.peer_host}" for each in wires)
        """By number: ``client–server``."""
        wanted = dict(enumerate(wires)) if links is None else {number: wires[number] for number in links}
        self._ends: dict[int, tuple[int, str, str]] = {}
        self._closed = False
        with ExitStack() as stack:
            own, self._taken, self._lost_map = program.lend(stack)
            self._key = int(own.name.removeprefix(_PROGRAM)).to_bytes(4, "little")
            self._lost_before = self._count()
            for name, seen in _watched(wanted).items():
                self._watch(lab[name], seen, wanted, own, stack)
            self._undo = stack.pop_all()

    def _watch(
        self, host: Host, seen: Sequence[int], wanted: dict[int, Wire], program: Program, stack: ExitStack
    ) -> None:
        """One socket for all links of a host. Of one link it is bound when its filter is in place.

        Of several it hears every interface of the host from its birth on, which bind() cannot say.
        """
        alone = len(seen) == 1
        sock = host.namespace.socket(AF_PACKET, SOCK_RAW, 0 if alone else htons(_ETH_P_ALL))
        acquired("packet socket", sock.fileno())
        stack.callback(host.namespace.let_go, sock)
        sock.setsockopt(SOL_SOCKET, _SO_ATTACH_BPF, program.fd)
        for number in seen:
            wire = wanted[number]
            end, peer = (wire.end, wire.peer_host) if wire.host == host.name else (wire.peer, wire.host)
            self._ends[end.index] = number, host.name, peer
            if alone:
                sock.bind((end.name, _ETH_P_ALL))

    def _count(self) -> int:
        return int.from_bytes(self._lost_map.get(self._key) or b"", "little")

    @property
    def lost(self) -> int:
        """How many frames the ring had no room for."""
        return self._count() - self._lost_before

    def _take_in(self) -> None:
        if not self._closed:
            self._program.take_in()

    def read(self) -> None:
        """Takes in what has come, as it is: a microsecond a frame. `EventsLost`."""
        self._take_in()
        if not self._closed and (lost := self.lost):
            raise EventsLost(
                f"the capture of {', '.join(self.link_names)} lost {lost} frames: its ring was full; "
                "read it more often, or make it larger"
            )

    @property
    def frames(self) -> list[Frame]:
        """Everything so far, in the order of its times. Decoded now; readable after `close` too."""
        self._take_in()
        if self._taken:
            self._frames += [made for data in self._taken if (made := self._decode(data)) is not None]
            self._frames.sort(key=lambda each: each.time_ns)  # CPUs are not in order among each other
            self._taken.clear()
        return list(self._frames)

    def _decode(self, record: bytes) -> Frame | None:
        """None for what is on none of the links, as on the loopback of a host that has several."""
        time_ns, index, length, captured, tci, _, flags = _FRAME.unpack_from(record)
        found = self._ends.get(index)
        if found is None:
            return None
        number, host, peer = found
        data = record[_FRAME.size : _FRAME.size + captured]
        if flags & _TAGGED:
            data = data[:_MACS] + struct.pack("!HH", _ETH_P_8021Q, tci) + data[_MACS:]
            length += 4
        sender, receiver = (host, peer) if flags & _OUTGOING else (peer, host)
        return Frame(time_ns, number, sender, receiver, data, length)

    def take(self) -> list[Frame]:
        """Those since the last time, which are let go of: for who keeps them himself."""
        taken = self.frames
        self._frames.clear()
        return taken

    def __len__(self) -> int:
        """How many frames were taken in."""
        return len(self._frames) + len(self._taken)

    def fileno(self) -> int:
        """A descriptor that is readable when a frame has come."""
        return self._program.fileno()

    def pending(self, present: Set[int]) -> list[str]:
        """Nothing: who waits for a socket waits for its frames."""
        del present
        return []

    def story(self) -> str:
        """How many frames each link has carried."""
        counts = Counter(each.link for each in self.frames)
        told = [f"{name}: {counts[number]}" for number, name in enumerate(self.link_names) if counts[number]]
        return f"frames on the links: {'; '.join(told) or 'none'}"

    def close(self) -> None:
        """Takes in the last of it and ends; what was captured stays."""
        self._take_in()
        self._closed = True
        self._undo.close()


def _watched(wanted: dict[int, Wire]) -> dict[str, list[int]]:
    """Which links to see from which hosts, by as few hosts as a greedy choice finds."""
    left = dict(wanted)
    watched: dict[str, list[int]] = {}
    while left:
        hosts = Counter(host for wire in left.values() for host in (wire.host, wire.peer_host))
        best, _ = hosts.most_common(1)[0]
        watched[best] = [number for number, wire in left.items() if best in {wire.host, wire.peer_host}]
        for number in watched[best]:
            del left[number]
    return watched
