"""A gate on the wire between two hosts: what they send is held, then passed on or lost.

No queue and no timer of the kernel has a part in it, so that a loss or a crossing of segments is
exact and takes microseconds. The neighbour's MAC is set to nobody's, so that the other host's
kernel drops what comes; a packet socket of the sender has a copy, which is sent again when it is to
arrive, to the right MAC. It is one direction's matter, so that both can be held at once.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.errors import UsageError
from testbed.kernel.links import End, neighbour
from testbed.kernel.netlink import execute
from testbed.lab.host import Host

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15  # include/uapi/linux/if_packet.h, Linux 2.6.27
_PACKET_OUTGOING = 4
# A checksum is filled in where a device has to, which a veth never has: struct virtio_net_hdr says
# so of a frame, to whoever receives it and when it is sent again.
_HEADER = 10
_MAC_AT = slice(_HEADER, _HEADER + 6)
_NOBODY = "02:00:00:00:ff:ff"
_FRAME = _HEADER + 14 + 65536


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _link(one: Host, other: Host) -> tuple[End, End]:
    """The ends of the first link that joins two hosts. `UsageError` when none does."""
    for end in one.ends:
        for peer_end in other.ends:
            if end.mac == peer_end.mac:  # a link has one MAC for both ends
                return end, peer_end
    raise UsageError(f"hold what {one.name} and {other.name} send", "no link joins them")


def _send_to(host: Host, end: End, peer: Host, mac: str) -> None:
    """From now on what a host sends to its peer goes to that MAC."""
    execute(host.namespace.route, [neighbour(end, address, mac) for address in peer.addresses])


def cut(one: Host, other: Host) -> None:
    """From now on nothing that two neighbours send to each other arrives, for good."""
    end, peer_end = _link(one, other)
    _send_to(one, end, other, _NOBODY)
    _send_to(other, peer_end, one, _NOBODY)


class _Side:
    """What one host sends to the other."""

    def __init__(self, host: Host, end: End, peer: Host, sockets: ExitStack, wires: ExitStack) -> None:
        self._mac = _bytes(end.mac)
        self._sock = host.socket(socket.AF_PACKET, socket.SOCK_RAW)
        acquired("packet socket", self._sock.fileno())
        sockets.callback(host.namespace.let_go, self._sock)
        self._sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._sock.bind((end.name, _ETH_P_ALL))
        self._sock.setblocking(False)
        wires.callback(_send_to, host, end, peer, end.mac)
        _send_to(host, end, peer, _NOBODY)

    def take(self) -> list[bytes]:
        """The frames that were held since the last time."""
        frames: list[bytes] = []
        while True:
            try:
                frame, (_, _, kind, *_) = self._sock.recvfrom(_FRAME)
            except BlockingIOError:
                return frames
            if kind == _PACKET_OUTGOING and frame[_MAC_AT] == _bytes(_NOBODY):
                frames.append(frame)

    def give(self, frames: list[bytes]) -> None:
        for frame in frames:
            self._sock.send(frame[:_HEADER] + self._mac + frame[_MAC_AT.stop :])


class Gate(Closing):
    """Shut from the start: nothing that two neighbours send to each other arrives.

    At the end of its block what is still held arrives, in the order of each side, and the wire is as
    it was.
    """

    def __init__(self, one: Host, other: Host) -> None:
        """`UsageError` when no link joins the two."""
        end, peer_end = _link(one, other)
        with ExitStack() as sockets, ExitStack() as wires:
            self._sides = (
                _Side(one, end, other, sockets, wires),
                _Side(other, peer_end, one, sockets, wires),
            )
            # the wire is mended first, then what is held passes, then the sockets close
            sockets.callback(self.pass_on)
            sockets.push(wires.pop_all())
            self._undo = sockets.pop_all()

    def pass_on(self, lost: int = 0) -> None:
        """What both sides have sent so far arrives; what they answer is held again.

        The first ``lost`` frames of each side do not.
        """
        held = [side.take() for side in self._sides]
        for side, frames in zip(self._sides, held, strict=True):
            side.give(frames[lost:])

    def lose(self) -> int:
        """What both sides have sent so far is lost. Returns how many frames that was."""
        return sum(len(side.take()) for side in self._sides)

    def close(self) -> None:
        """Opens it."""
        self._undo.close()
