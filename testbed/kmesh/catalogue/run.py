"""Plays a scenario of the catalogue: opens, sends, closes as its case says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from testbed.kmesh.abi import Absent, Verdict
from testbed.kmesh.catalogue import closes, odd_closes, odd_opens, opens, settings, traffic
from testbed.kmesh.catalogue.case import UNCONNECTED, Case, Close, Open, Route, Traffic
from testbed.kmesh.catalogue.stage import Stage
from testbed.kmesh.catalogue.traffic import Talk
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.oracle.oracle import Oracle
from testbed.lab.impatience import Impatience
from testbed.lab.pair import Connection, Pair
from testbed.observe.callbacks import Op
from testbed.observe.tap import Tap

Opening = Callable[[Stage], list[Connection]]
Doing = Callable[[Stage, Sequence[Talk]], None]

OPENS: dict[Open, Opening] = {
    Open.PLAIN: opens.plain,
    Open.NON_BLOCKING: opens.non_blocking,
    Open.REFUSED: opens.refused,
    Open.RETRIED: opens.retried,
    Open.TIMED_OUT: odd_opens.timed_out,
    Open.FAST_OPEN: odd_opens.fast_open,
    Open.SIMULTANEOUS: odd_opens.simultaneous,
    Open.COOKIES: odd_opens.cookies,
    Open.HALF_OPEN: odd_opens.half_open,
    Open.MALFORMED: odd_opens.malformed,
    Open.NOT_ACCEPTED: opens.not_accepted,
    Open.MANY: opens.many,
    Open.SAME_PORTS: opens.same_ports,
    Open.TWO_ADDRESSES: opens.two_addresses,
    Open.BOUND_TO_DEVICE: opens.bound_to_device,
}
TRAFFIC: dict[Traffic, Doing] = {
    Traffic.NOTHING: traffic.nothing,
    Traffic.ONE_BYTE: traffic.one_byte,
    Traffic.BULK: traffic.bulk,
    Traffic.SMALL: traffic.small,
    Traffic.SEVERAL: traffic.several,
    Traffic.IN_SYN: traffic.nothing,
}
CLOSES: dict[Close, Doing] = {
    Close.NOTHING: closes.nothing,
    Close.CLIENT_FIRST: closes.client_first,
    Close.SERVER_FIRST: closes.server_first,
    Close.BOTH_AT_ONCE: odd_closes.both_at_once,
    Close.CLIENT_HALF: closes.client_half,
    Close.SERVER_HALF: closes.server_half,
    Close.CLIENT_LINGER: closes.client_linger,
    Close.SERVER_LINGER: closes.server_linger,
    Close.CLIENT_UNREAD: closes.client_unread,
    Close.SERVER_UNREAD: closes.server_unread,
    Close.CLIENT_KERNEL: closes.client_kernel,
    Close.SERVER_KERNEL: closes.server_kernel,
    Close.CLIENT_DESTROYED: closes.client_destroyed,
    Close.SERVER_DESTROYED: closes.server_destroyed,
    Close.CLIENT_KILLED: closes.client_killed,
    Close.SERVER_KILLED: closes.server_killed,
    Close.CLIENT_GONE: odd_closes.client_gone,
    Close.KEEPALIVE: odd_closes.keepalive,
    Close.USER_TIMEOUT: odd_closes.user_timeout,
    Close.TIME_WAIT: odd_closes.time_wait,
}
# How often each side is called back as established while a connection opens: (active, passive).
_ONE = (1, 1)
_ESTABLISHED: dict[Open, tuple[int, int]] = {
    **dict.fromkeys(Open, _ONE),
    **dict.fromkeys(UNCONNECTED, (0, 0)),
    Open.SIMULTANEOUS: (0, 2),  # to the kernel both were found by a SYN
    Open.MANY: (opens.AT_ONCE, opens.AT_ONCE),
    Open.SAME_PORTS: (2, 2),
    Open.TWO_ADDRESSES: (2, 2),
}


def run_case(case: Case, pair: Pair, mesh: Mesh, tap: Tap, impatience: Callable[[], Impatience]) -> None:
    """Plays one scenario; ends when the lab is at rest, every socket closed.

    It asserts that the situation was what the case says, and that data arrived as sent. The oracle
    judges what the program made of it: here while it is open, the caller after the end. `Absent`
    where kernel, era or set lack what it takes.
    """
    if pair.family.version == 6:
        mesh.profile.require("ipv6")
    with ExitStack() as undo:
        stage = Stage(case, pair, mesh, tap, impatience, undo)
        settings.before(stage)
        connections = OPENS[case.open](stage)
        _await_established(stage)
        talks = [Talk(each, _metadata(stage, each)) for each in connections]
        with suppress(Absent):  # an era without requests has none to judge
            mesh.authorize(lambda _request: Verdict.DENY)
        settings.midway(stage)
        if connections:
            Oracle(mesh, tap).check()  # what only an open connection shows: storage, sockhash
        TRAFFIC[case.traffic](stage, talks)
        CLOSES[case.close](stage, talks)
    pair.lab.settle()


def _await_established(stage: Stage) -> None:
    """As often as the way of opening says, on each side. accept() has returned; callbacks may run yet."""

    def seen() -> tuple[int, int]:
        counted = Counter(each.op for each in stage.tap)
        return counted[Op.ACTIVE_ESTABLISHED], counted[Op.PASSIVE_ESTABLISHED]

    expected = _ESTABLISHED[stage.case.open]
    stage.mesh.eventually(
        lambda: seen() == expected,
        awaited=lambda: f"callbacks to established (active, passive): {expected}; there are {seen()}",
    )


def _metadata(stage: Stage, connection: Connection) -> bytes:
    """What the server reads ahead of the payload, of a client that was managed when it connected.

    Nothing of a client that was not called back as an active one.
    """
    is_active = bool(stage.tap.of(connection.client, Op.ACTIVE_ESTABLISHED))
    if is_active and stage.case.route is Route.WAYPOINT and connection.tuple.src in stage.mesh.managed:
        with suppress(Absent):  # nobody writes it
            return stage.mesh.waypoint_metadata(connection.tuple)
    return b""
