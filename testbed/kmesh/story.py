"""What happened in a lab, without what is another each time: two runs that did the same tell the same.

Times, cookies and round trips are left out, and by which way a connection closed: which FIN or RST
came first, and was counted, is a matter of microseconds. A port is told by whose it is, as the tap
saw it: a port that no socket of the lab has (one with its bytes reversed, say) is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Absent
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.records import ObserveRecord
from testbed.lab.family import Address, ConnTuple
from testbed.observe.callbacks import Callback, Op
from testbed.observe.tap import Tap

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
    ports = _owners(tap)
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


def _owners(tap: Tap) -> dict[int, str]:
    """Whose each port is: the host's that has it as a local port."""
    owners: dict[int, set[str]] = {}
    for each in tap:
        owners.setdefault(each.local_port, set()).add(each.host or "?")
    return {port: "/".join(sorted(hosts)) for port, hosts in owners.items()}


def _port(port: int, owners: dict[int, str]) -> str:
    return str(port) if port < _WELL_KNOWN else f"{owners.get(port, 'nobody')}'s"


def _endpoint(address: Address, port: int, owners: dict[int, str]) -> str:
    return f"{address} port {_port(port, owners)}"


def _tuple(connection: ConnTuple, owners: dict[int, str]) -> str:
    source = _endpoint(connection.src, connection.sport, owners)
    return f"{source} → {_endpoint(connection.dst, connection.dport, owners)}"


def _sockets(tap: Tap, owners: dict[int, str]) -> list[list[str]]:
    by_cookie: dict[int, list[str]] = {}
    for each in tap:
        if told := _callback(each, owners):
            by_cookie.setdefault(each.cookie, []).append(told)
    return sorted({tuple(told): told for told in by_cookie.values()}.values())


def _callback(each: Callback, owners: dict[int, str]) -> str:
    change = ""
    if each.op is Op.STATE:
        before, after = ("CLOSING" if state in _CLOSING else state.name for state in each.change)
        if before == after:
            return ""
        change = f" {before} → {after}"
    local = _endpoint(each.local, each.local_port, owners)
    remote = _endpoint(each.remote, each.remote_port, owners)
    return f"{each.host} {each.op.name}{change} {local} – {remote} flags={int(each.flags)}"


def _record(record: ObserveRecord, owners: dict[int, str]) -> str:
    asked = f" asked for {_endpoint(*record.destination, owners)}" if record.destination else ""
    closed = record.state is TcpState.CLOSE
    names = [name for name in _SAME_EACH_TIME if not (closed and name in _BY_THE_WAY)]
    numbers = " ".join(f"{name}={record.values[name]}" for name in names if name in record.values)
    unused = " unused bytes are not zero" if any(record.unused) else ""
    told = f"{record.direction.name}/{record.state.name} {_tuple(record.tuple, owners)}"
    return f"{told}{asked} {numbers}{unused}"
