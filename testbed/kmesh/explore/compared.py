"""What a play has come to so far, and how it is held against the contract."""

from __future__ import annotations

import socket

from testbed.errors import UsageError
from testbed.kmesh.explore.link import Link, Side, known_address
from testbed.kmesh.explore.witness import differences
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.oracle.compare import Violation
from testbed.kmesh.oracle.oracle import ContractViolation, Oracle
from testbed.lab.family import Address
from testbed.lab.lab import Lab
from testbed.observe.tap import Tap


class Compared:
    """The base of `Play`: ``links`` are the connections by name, ``managed`` the addresses that enrolled.

    ``exemptions`` are what the settings that exempt were set to. All of it follows from the acts.
    """

    def __init__(self, lab: Lab, mesh: Mesh, tap: Tap) -> None:
        self.lab = lab
        self.links: dict[str, Link] = {}
        self.managed: set[Address] = set()
        self.exemptions: dict[str, Address | None] = {}
        self.is_monitored = True
        self.is_stalled = False
        self._mesh = mesh
        self._tap = tap
        self._oracle = Oracle(mesh, tap)
        # by host and family
        self._listeners: dict[tuple[str, int], socket.socket] = {}
        self._queues: dict[tuple[str, int], list[str]] = {}

    def __repr__(self) -> str:
        return f"<Play {', '.join(f'{name} {link.tuple}' for name, link in self.links.items())}>"

    def address(self, host: str, version: int) -> Address:
        """The address that a host is known by, of an IP version (4 or 6)."""
        return known_address(self.lab, host, version)

    def stall(self) -> None:
        """From now on nobody reads the rings and nothing is compared: records pile up."""
        self.is_stalled = True

    def resume(self) -> None:
        """The rings are read again, and what has piled up is compared."""
        self.is_stalled = False
        self._acted()

    def check(self) -> None:
        """Compares what has happened so far. `ContractViolation`; `UsageError` while stalled."""
        self._need(not self.is_stalled, "compare", "the consumer is stalled")
        self._oracle.check()
        found = list(differences(self.links.values(), self.managed, self._mesh, self._tap))
        found += [
            Violation("log", None, f"the program logged: {event}", ("log: a complaint",))
            for event in self._mesh.complaints()
        ]
        if found:
            raise ContractViolation(found, self._tap.story())

    def _acted(self) -> None:
        if self.is_stalled:
            self.lab.settle()
        else:
            self.check()

    def _link(self, name: str) -> Link:
        self._need(
            name in self.links, f"find the connection {name}", f"there are {', '.join(self.links) or 'none'}"
        )
        return self.links[name]

    def _new(self, name: str) -> None:
        self._need(name not in self.links, f"connect {name}", "there is one of that name")

    def _end(self, name: str, side: Side) -> socket.socket:
        link = self._link(name)
        self._need(side in link.sockets, f"use the {side} of {name}", "it is closed, or not accepted")
        return link.sockets[side]

    @staticmethod
    def _need(condition: bool, what: str, why: str) -> None:
        if not condition:
            raise UsageError(what, why)
