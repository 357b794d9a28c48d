"""One connection of a play: its sockets, what is on its way to each end, and how far it has ended."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from testbed.kmesh.abi import Verdict
from testbed.lab.family import Address, ConnTuple, Family
from testbed.lab.lab import Lab

Side = Literal["client", "server"]
SIDES: tuple[Side, Side] = ("client", "server")


def other(side: Side) -> Side:
    return "server" if side == "client" else "client"


@dataclass(frozen=True)
class Told:
    """What the contract has reported of a connection, by who was managed when it was established."""

    outbound: bool
    inbound: bool
    monitored: bool


@dataclass
class Link:
    """A connection by its name. All of this follows from the actions: nothing was asked of the program.

    ``sockets`` are the ends that are open, ``unread`` what an end has been sent and has not read;
    ``metadata`` still goes ahead of what the client sends first. ``reset`` says that a RST ended it,
    ``finished`` which ends have sent their FIN, ``closed`` which are closed altogether. ``steady`` is
    False once monitoring was switched while it lasted, ``judged_late`` is a verdict after its end began.
    """

    name: str
    client: str
    server: str
    family: Family
    tuple: ConnTuple
    told: Told
    sockets: dict[Side, socket.socket]
    waypoint: bool = False
    metadata: bytes = b""
    unread: dict[Side, bytearray] = field(default_factory=lambda: {side: bytearray() for side in SIDES})
    finished: set[Side] = field(default_factory=set)
    closed: set[Side] = field(default_factory=set)
    reset: bool = False
    steady: bool = True
    verdict: Verdict | None = None
    judged_late: bool = False

    @property
    def is_ended(self) -> bool:
        """Closed to the kernel on both sides, whoever still holds a descriptor."""
        return self.reset or len(self.finished) == len(SIDES)

    @property
    def is_untouched(self) -> bool:
        """Neither side has begun to close."""
        return not self.reset and not self.finished

    def can_send(self, side: Side) -> bool:
        return side in self.sockets and not self.is_ended and side not in self.finished

    def can_receive(self, side: Side) -> bool:
        return side in self.sockets and not self.reset and bool(self.unread[side])

    def hasten(self, side: Side) -> None:
        """That end acknowledges what it was sent at once: an ACK that is delayed comes 40 ms later.

        A FIN has to be read first, which is possible where nothing else is to be read.
        """
        if side not in self.sockets or self.is_ended:
            return
        if other(side) in self.finished and not self.unread[side]:
            with suppress(BlockingIOError):
                self.sockets[side].recv(1, socket.MSG_DONTWAIT)
        self.sockets[side].setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def shutdown(self, side: Side) -> None:
        self.sockets[side].shutdown(socket.SHUT_WR)
        self.finished.add(side)
        self.hasten(other(side))

    def close(self, side: Side) -> None:
        """With data that was not read the kernel sends a RST in place of the FIN (RFC 2525, 2.17)."""
        if self.unread[side] and not self.is_ended:
            self.reset = True
        self.sockets.pop(side).close()
        self.finished.add(side)
        self.closed.add(side)
        self.hasten(other(side))


def known_address(lab: Lab, host: str, version: int) -> Address:
    """The address that a host reaches its gateway from, of an IP version (4 or 6); else its first one."""
    topology = lab.topology
    gateway = topology.hosts[host].gateway
    if gateway is not None:
        for interface in topology.neighbours(gateway)[host].addresses:
            if interface.version == version:
                return interface.ip
    return lab[host].address(version)
