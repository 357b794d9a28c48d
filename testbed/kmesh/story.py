"""What happened in a lab, without what is another each time: two runs that did the same tell the same.

Times, cookies and round trips are left out, and by which way a connection closed: which FIN or RST
came first, and was counted, is a matter of microseconds. A port is told by whose it is, as the tap
saw it: a port that no socket of the lab has (one with its bytes reversed, say) is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Absent
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.records import ObserveRecord
from testbed.lab.family import Address, ConnTuple
from testbed.observe.callbacks import Callback, Op
from testbed.observe.tap import Tap

Owners = dict[int, dict[str, set[Address]]]
"""By port: which hosts have it, and on which addresses."""
_WELL_KNOWN = 1024
_CLOSING = {
    TcpState.FIN_WAIT1,
    TcpState.FIN_WAIT2,
    TcpState.CLOSE_WAIT,
    TcpState.CLOSING,
    TcpState.LAST_ACK,
}
# Of a closed connection: which FIN was counted, and what a busy machine had to send again.
_BY_THE_WAY = {"sent_bytes", "received_bytes", "total_retrans", "lost_out"}
_SAME_EACH_TIME = ("conn_success", "sent_bytes", "received_bytes", "protocol", "total_retrans", "lost_out")


def recorded_story(mesh: Mesh, tap: Tap) -> dict[str, Any]:
    """JSON-like: ``sockets`` (each one's callbacks in order), ``records``, ``requests``, and what is left.

    Sockets that did the same are told once, as it is of no account how many there were of them.
    """
    ports = owners_of(tap)
    story: dict[str, Any] = {"sockets": _sockets(tap, ports)}
    telling: tuple[tuple[str, Callable[[], list[str]]], ...] = (
        ("records", lambda: sorted(_record(record, ports) for record in mesh.observed)),
        ("requests", lambda: sorted(_tuple(request.tuple, ports) for request in mesh.auth_requests)),
        ("verdicts left", lambda: sorted(_tuple(key, ports) for key in mesh.verdicts)),
        ("sockhash left", lambda: sorted(_tuple(key, ports) for key in mesh.sockhash)),
        ("managed", lambda: sorted(map(str, mesh.managed))),
        ("logged", lambda: [str(event) for event in mesh.log]),
    )
    for name, tell in telling:
        with suppress(Absent):
            story[name] = tell()
    return story


def owners_of(callbacks: Iterable[Callback]) -> Owners:
    """Whose each port is: the host's that has it as a local port."""
    owners: Owners = {}
    for each in callbacks:
        owners.setdefault(each.local_port, {}).setdefault(each.host or "?", set()).add(each.local)
    return owners


def told_endpoint(address: Address, port: int, owners: Owners) -> str:
    """Without the port's number. One that two hosts chose alike by chance is the one's with that address."""
    if port < _WELL_KNOWN:
        return f"{address} port {port}"
    hosts = owners.get(port, {"nobody": set()})
    named = sorted(host for host, addresses in hosts.items() if address in addresses) or sorted(hosts)
    return f"{address} port {'/'.join(named)}'s"


def _tuple(connection: ConnTuple, owners: Owners) -> str:
    source = told_endpoint(connection.src, connection.sport, owners)
    return f"{source} → {told_endpoint(connection.dst, connection.dport, owners)}"


def _sockets(tap: Tap, owners: Owners) -> list[list[str]]:
    by_cookie: dict[int, list[str]] = {}
    for each in tap:
        if told := _callback(each, owners):
            by_cookie.setdefault(each.cookie, []).append(told)
    return sorted({tuple(told): told for told in by_cookie.values()}.values())


def _callback(each: Callback, owners: Owners) -> str:
    change = ""
    if each.op is Op.STATE:
        before, after = ("CLOSING" if state in _CLOSING else state.name for state in each.change)
        if before == after:
            return ""
        change = f" {before} → {after}"
    local = told_endpoint(each.local, each.local_port, owners)
    remote = told_endpoint(each.remote, each.remote_port, owners)
    return f"{each.host} {each.op.name}{change} {local} – {remote} flags={int(each.flags)}"


def _record(record: ObserveRecord, owners: Owners) -> str:
    asked = f" asked for {told_endpoint(*record.destination, owners)}" if record.destination else ""
    closed = record.state is TcpState.CLOSE
    names = [name for name in _SAME_EACH_TIME if not (closed and name in _BY_THE_WAY)]
    numbers = " ".join(f"{name}={record.values[name]}" for name in names if name in record.values)
    unused = " unused bytes are not zero" if any(record.unused) else ""
    told = f"{record.direction.name}/{record.state.name} {_tuple(record.tuple, owners)}"
    return f"{told}{asked} {numbers}{unused}"
