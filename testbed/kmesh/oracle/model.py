"""The contract as a plain Python program: fed with what happened, it says what must come of it.

It never looks at the program under test. What it is fed are the kernel's callbacks (by the tap), what
user space did (by the ledger) and whose connects were redirected, in the order of their times.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Direction, Verdict
from testbed.kmesh.oracle.ledger import (
    Action,
    Cleared,
    Configured,
    Connecting,
    Judged,
    Managed,
    SettingValue,
    Stored,
)
from testbed.kmesh.profile import Control
from testbed.kmesh.records import Destination
from testbed.lab.family import Address, ConnTuple
from testbed.lab.redirect import Redirect
from testbed.observe.callbacks import Callback, Op


@dataclass(frozen=True)
class Rules:
    """What of the contract depends on the era and on the set under test.

    ``stores`` are the socket families whose storage a connect hook of the set makes; ``presence``:
    whoever is in the managed map is managed, whatever the value; ``exempts``: node_ip and
    pod_gateway are known; ``waypoint``: sockets with that mark go into the sockhash.
    """

    control: Control
    stores: frozenset[int]
    presence: bool = False
    exempts: bool = True
    storage: bool = True
    waypoint: bool = True


@dataclass(frozen=True)
class ExpectedRecord:
    """A record that must come (``certain``), or may: when it was written and what it has to say.

    Times are nanoseconds of CLOCK_MONOTONIC: the record is written after ``after_ns`` and before its
    callback has ended; the connection began between ``start_from_ns`` and ``start_to_ns``.
    """

    direction: Direction
    state: TcpState
    tuple: ConnTuple
    asked_for: Destination | None
    callback: Callback
    after_ns: int
    start_from_ns: int
    start_to_ns: int
    certain: bool = True


@dataclass
class Socket:
    """What the contract has to remember of a socket."""

    stored: bool = False
    """User space or a connect hook has made its storage."""
    must_store: bool = False
    may_store: bool = False
    via_waypoint: bool = False
    asked_for: Destination | None = None
    begun_ns: int = 0
    is_noted: bool = False
    redirected: Redirect | None = None
    syn_ns: int = 0
    last_ns: int = 0
    direction: Direction | None = None
    watched: bool = False
    reported: bool = False
    start: tuple[int, int] = (0, 0)


@dataclass
class Model:
    """The state that the contract prescribes, and the effects so far.

    ``verdicts`` has what must be there; ``unsure_verdicts`` what may be: the contract leaves open
    whether the client's close takes the verdict with it. ``unsure_sockhash`` likewise: a connection
    that has ended is in the sockhash until its descriptor is closed, since Linux 5.16 (b8b8315e39ff),
    and not before. ``watched`` says of each established
    callback whether the socket must have STATE_CB_FLAG after it.
    """

    rules: Rules
    managed: dict[Address, int] = field(default_factory=dict)
    verdicts: dict[ConnTuple, Verdict] = field(default_factory=dict)
    unsure_verdicts: set[ConnTuple] = field(default_factory=set)
    settings: dict[str, SettingValue] = field(default_factory=lambda: {"monitoring": True})
    sockhash: dict[int, ConnTuple] = field(default_factory=dict)
    unsure_sockhash: set[ConnTuple] = field(default_factory=set)
    records: list[ExpectedRecord] = field(default_factory=list)
    requests: list[tuple[ConnTuple, Callback]] = field(default_factory=list)
    watched: list[tuple[Callback, bool]] = field(default_factory=list)
    open: dict[int, Callback] = field(default_factory=dict)
    sockets: dict[int, Socket] = field(default_factory=dict)

    def _socket(self, cookie: int) -> Socket:
        return self.sockets.setdefault(cookie, Socket())

    def act(self, action: Action, begun_ns: int) -> None:
        """What user space did."""
        match action:
            case Managed(address, None):
                self.managed.pop(address, None)
            case Managed(address, int(value)):
                self.managed[address] = value
            case Judged(connection, verdict):
                self.unsure_verdicts.discard(connection)
                self.verdicts.pop(connection, None)
                if verdict is not None:
                    self.verdicts[connection] = verdict
            case Cleared(what):
                getattr(self, what).clear()
                if what == "verdicts":
                    self.unsure_verdicts.clear()
            case Configured(name, value):
                self.settings[name] = value
            case Stored(cookie, storage):
                sock = self._socket(cookie)
                sock.stored = sock.must_store = storage is not None
                sock.via_waypoint = storage is not None and storage.via_waypoint
                if storage is None:
                    sock.direction = None  # it says what is to be reported at the end
            case Connecting(cookie, destination):
                sock = self._socket(cookie)
                sock.asked_for, sock.begun_ns, sock.is_noted = destination, begun_ns, True

    def redirect(self, each: Redirect) -> None:
        """What a connect() was made of, on its way from the connect hooks to the SYN."""
        self._socket(each.cookie).redirected = each

    def callback(self, each: Callback) -> None:
        """What the kernel called back."""
        sock = self._socket(each.cookie)
        if each.op is Op.TCP_CONNECT:
            self._connect(each, sock)
        elif each.op is Op.ACTIVE_ESTABLISHED:
            self._active(each, sock)
        elif each.op is Op.PASSIVE_ESTABLISHED:
            self._passive(each, sock)
        elif each.op is Op.STATE and each.change[1] is TcpState.CLOSE:
            self._close(each, sock)
        sock.last_ns = each.time_ns

    def _connect(self, each: Callback, sock: Socket) -> None:
        sock.syn_ns = each.time_ns
        if not sock.is_noted:  # connected by the test's own means
            sock.asked_for, sock.begun_ns = _asked_for(each, sock), 0
        sock.is_noted, sock.redirected = False, None
        if each.family in self.rules.stores:
            sock.stored = True
            sock.must_store = self.is_managed(each.local)
        control = self.rules.control
        if each.remote not in {control.ipv4, control.ipv6}:
            return
        if each.remote_port == control.enrol_port:
            self.managed[each.local] = 0
        elif each.remote_port == control.remove_port:
            self.managed.pop(each.local, None)

    def is_managed(self, address: Address) -> bool:
        """Present, and with the value 0 where the era looks at it."""
        value = self.managed.get(address)
        return value is not None and (self.rules.presence or value == 0)

    def _established(self, each: Callback, sock: Socket, direction: Direction) -> None:
        sock.direction = direction
        self.open[each.cookie] = each
        sock.reported = bool(self.settings["monitoring"])
        if sock.reported:
            self._report(each, sock, TcpState.ESTABLISHED, certain=True)

    def _active(self, each: Callback, sock: Socket) -> None:
        if not self.is_managed(each.local):
            if not sock.watched:  # a socket that is connected again keeps its flags
                self.watched.append((each, False))
            return
        if self.rules.storage and not sock.stored:
            return  # no record is possible; what else is done is nobody's promise
        self.watched.append((each, True))
        sock.watched = True
        sock.start = (sock.begun_ns, sock.syn_ns)
        self._established(each, sock, Direction.OUTBOUND)
        if sock.via_waypoint and self.rules.waypoint:
            self.sockhash[each.cookie] = local_to_remote(each)

    def _passive(self, each: Callback, sock: Socket) -> None:
        exempt = {self.settings.get("node_ip"), self.settings.get("pod_gateway")} - {None}
        managed = self.is_managed(each.local) and not (self.rules.exempts and each.remote in exempt)
        self.watched.append((each, managed))
        if managed:
            sock.start = (sock.last_ns, each.time_ns)
            sock.may_store = True
            self._established(each, sock, Direction.INBOUND)
            self.requests.append((local_to_remote(each).reversed, each))

    def _close(self, each: Callback, sock: Socket) -> None:
        if (key := self.sockhash.pop(each.cookie, None)) is not None:
            self.unsure_sockhash.add(key)
        self.open.pop(each.cookie, None)
        if sock.direction is None:
            return
        if self.settings["monitoring"]:
            # that a connection is reported closed which was not reported established is no promise
            self._report(each, sock, TcpState.CLOSE, certain=sock.reported)
        connection = local_to_remote(each)
        if sock.direction is Direction.INBOUND:
            self.verdicts.pop(connection.reversed, None)
            self.unsure_verdicts.discard(connection.reversed)
        elif self.verdicts.pop(connection, None) is not None:
            self.unsure_verdicts.add(connection)
        sock.direction = None

    def _report(self, each: Callback, sock: Socket, state: TcpState, *, certain: bool) -> None:
        assert sock.direction is not None, "only what was established is reported"
        outbound = sock.direction is Direction.OUTBOUND
        connection = local_to_remote(each)
        self.records.append(
            ExpectedRecord(
                sock.direction,
                state,
                connection if outbound else connection.reversed,
                sock.asked_for if outbound else None,
                each,
                sock.last_ns,
                *sock.start,
                certain,
            )
        )


def _asked_for(each: Callback, sock: Socket) -> Destination:
    """Where a SYN goes, unless it was redirected there."""
    remote = (each.remote, each.remote_port)
    return sock.redirected.asked_for if sock.redirected and sock.redirected.to == remote else remote


def local_to_remote(each: Callback) -> ConnTuple:
    """A callback's tuple, as its own host sees it."""
    return ConnTuple(each.local, each.local_port, each.remote, each.remote_port)
