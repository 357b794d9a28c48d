"""What hosts can do, by plain words, each act held against the contract."""

from __future__ import annotations

import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

from testbed.bpf.kinds import ProgramKind
from testbed.kernel.syscalls import disconnect
from testbed.kmesh.abi import Verdict
from testbed.kmesh.explore.compared import Compared
from testbed.kmesh.explore.link import SIDES, Link, Side, Told, other
from testbed.lab.family import ConnTuple, Family
from testbed.lab.payload import difference
from testbed.lab.sockets import reset_on_close
from testbed.lab.wait import DEADLINE_S

_NOBODY_LISTENS = 9
_EXEMPT = ("node_ip", "pod_gateway")


class Play(Compared):
    """Hosts of a lab at work: ``play.connect("c1", "one", "two", "v6")``, ``play.close("c1", "client")``.

    Hosts go by their names in the lab, connections by the names that the test gives them, ends are
    ``"client"`` and ``"server"``, families ``"v4"``, ``"v6"``, ``"mapped"``, ``"mapped-client"``. A host
    is known by one address of each IP version: that which it reaches its gateway from, and so the
    control address.

    After each act, unless the consumer is stalled, the lab has come to rest and everything that has
    happened is compared twice: by the oracle, which goes by the kernel's callbacks, and by what was
    done here. `ContractViolation` tells the differences. A context manager: at its end what is still
    open is closed, each connection's client first, and compared once more.

    An act that makes no sense (an end that is closed, a name that is taken) is a `UsageError`, what
    the era or the set under test lacks is `Absent`.
    """

    def enrol(self, host: str, family: str = "v4") -> None:
        """A host connects to the control address, port 929: from then on it is managed."""
        self._mesh.enrol(self.lab[host], Family(family))
        self.managed.add(self.address(host, Family(family).version))
        self._acted()

    def remove(self, host: str, family: str = "v4") -> None:
        """A host connects to the control address, port 930: it is managed no longer."""
        self._mesh.remove(self.lab[host], Family(family))
        self.managed.discard(self.address(host, Family(family).version))
        self._acted()

    def connect(
        self, name: str, client: str, server: str, family: str = "v4", *, waypoint: bool = False
    ) -> None:
        """Connects one host to another; nobody has accepted yet.

        ``waypoint``: the client's socket is marked for the waypoint first.
        """
        self._new(name)
        met = Family(family)
        sock = self.lab[client].socket(met.client)
        try:
            if waypoint:
                self._mesh.via_waypoint(sock)
            if self.lab.topology.hosts[client].gateway != server:
                # the kernel would take the address on their link, which is not what the host is known by
                sock.bind((met.as_client(self.address(client, met.version)), 0))
            self._connect(name, sock, client, server, met, waypoint)
        except BaseException:
            sock.close()
            raise
        self._acted()

    def _connect(
        self, name: str, sock: socket.socket, client: str, server: str, family: Family, waypoint: bool
    ) -> None:
        key = (server, int(family.listener))
        if key not in self._listeners:
            self._listeners[key] = self.lab[server].listen(family.listener)
        port = self._listeners[key].getsockname()[1]
        destination = self.address(server, family.version)
        self.lab[client].connect(destination, port, sock=sock)
        connection = ConnTuple.of_client(sock)
        outbound = connection.src in self.managed
        inbound = destination in self.managed and connection.src not in self.exemptions.values()
        link = Link(
            name,
            client,
            server,
            family,
            connection,
            Told(outbound, inbound, self.is_monitored),
            {"client": sock},
            waypoint,
        )
        if waypoint and outbound and self._mesh.has(ProgramKind.SK_MSG):
            link.metadata = self._mesh.waypoint_metadata(connection)
        self.links[name] = link
        self._queues.setdefault(key, []).append(name)

    def again(self, name: str, over: str) -> None:
        """The client's socket of the connection ``over`` lets go of it, and connects to that server anew."""
        self._new(name)
        old = self._link(over)
        sock = self._let_go(old)
        self._connect(name, sock, old.client, old.server, old.family, old.waypoint)
        del old.sockets["client"]
        self._acted()

    def refused(self, over: str) -> None:
        """The client's socket of a connection lets go of it, and is refused where nobody listens."""
        old = self._link(over)
        sock = self._let_go(old)
        with suppress(ConnectionRefusedError):
            self.lab[old.client].connect(
                self.address(old.server, old.family.version), _NOBODY_LISTENS, sock=sock
            )
            raise AssertionError(f"somebody listens on port {_NOBODY_LISTENS} of {old.server}")
        self._acted()

    def _let_go(self, link: Link) -> socket.socket:
        sock = self._end(link.name, "client")
        disconnect(sock.fileno())
        link.reset = True
        return sock

    def accept(self, name: str) -> None:
        """The server accepts a connection, which has to be the first in the queue of its listener."""
        link = self._link(name)
        key = (link.server, int(link.family.listener))
        self._need(self._queues[key][:1] == [name], f"accept {name}", "it is not the first in the queue")
        link.sockets["server"], _ = self._listeners[key].accept()
        link.sockets["server"].settimeout(DEADLINE_S)
        self._queues[key].remove(name)
        self._acted()

    def send(self, name: str, side: Side, size: int) -> None:
        """One end sends so many bytes, which the other one has to read by `receive`."""
        link = self._link(name)
        self._need(link.can_send(side), f"send from the {side} of {name}", "that end is closed")
        data = bytes((len(link.unread[other(side)]) + place) % 251 for place in range(size))
        link.sockets[side].sendall(data)
        link.hasten(other(side))
        if side == "client":
            data, link.metadata = link.metadata + data, b""
        link.unread[other(side)] += data
        if other(side) in link.closed:
            link.reset = True
        self._acted()

    def receive(self, name: str, side: Side) -> None:
        """One end reads all that it was sent: it must be that, behind the metadata of a waypoint."""
        link = self._link(name)
        self._need(
            link.can_receive(side), f"receive at the {side} of {name}", "nothing was sent, or a RST took it"
        )
        expected, seen = link.unread[side], bytearray()
        while len(seen) < len(expected) and (part := link.sockets[side].recv(len(expected) - len(seen))):
            seen += part
        assert not (told := difference(bytes(seen), bytes(expected))), f"{side} of {name} received {told}"
        expected.clear()
        self._acted()

    def shutdown(self, name: str, side: Side) -> None:
        """One end sends its FIN, and still reads."""
        link = self._link(name)
        self._need(link.can_send(side), f"shut down the {side} of {name}", "that end is closed")
        link.shutdown(side)
        self._acted()

    def close(self, name: str, side: Side) -> None:
        """Closes one end: by a FIN, or by a RST where it has not read all that it was sent."""
        self._end(name, side)
        self._link(name).close(side)
        self._acted()

    def reset(self, name: str, side: Side) -> None:
        """Closes one end by a RST."""
        reset_on_close(self._end(name, side))
        link = self._link(name)
        link.reset = True
        link.close(side)
        self._acted()

    def verdict(self, name: str, verdict: str) -> None:
        """User space judges a connection: ``"allow"`` or ``"deny"``."""
        link = self._link(name)
        link.verdict = Verdict[verdict.upper()]
        link.judged_late = not link.is_untouched
        self._mesh.verdicts[link.tuple] = link.verdict
        self._acted()

    def monitoring(self, on: bool) -> None:
        """User space switches the records on or off."""
        self._mesh.config.monitoring = on
        for link in self.links.values():
            link.steady = link.steady and (link.is_ended or on == self.is_monitored)
        self.is_monitored = on
        self._acted()

    def exempt(self, setting: str, host: str = "", family: str = "v4") -> None:
        """User space sets ``"node_ip"`` or ``"pod_gateway"`` to a host's address; without a host to none."""
        self._need(setting in _EXEMPT, f"set {setting}", f"settings that exempt are {' and '.join(_EXEMPT)}")
        address = self.address(host, Family(family).version) if host else None
        setattr(self._mesh.config, setting, address)
        self.exemptions[setting] = address
        self._acted()

    def finish(self) -> None:
        """Closes what is open, clients first, then the listeners; compares once more."""
        self.close_all()
        self.is_stalled = False
        self._acted()

    def close_all(self) -> None:
        """Closes what is open, and compares nothing."""
        for link in self.links.values():
            for side in [side for side in SIDES if side in link.sockets]:
                link.close(side)
        for key, listener in self._listeners.items():
            listener.close()
            for name in self._queues.pop(key, []):
                self.links[name].reset = True  # nobody will accept it
        self._listeners.clear()

    def queue(self) -> list[str]:
        """The connections that can be accepted: the first at each listener."""
        return [names[0] for names in self._queues.values() if names]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.close_all()
