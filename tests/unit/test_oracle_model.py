"""The model of the contract by itself: fed with callbacks that are written down here."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import pytest

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import Direction, Verdict
from testbed.kmesh.oracle.ledger import Action, Cleared, Configured, Connecting, Judged, Managed, Stored
from testbed.kmesh.oracle.model import Model, Rules
from testbed.kmesh.profile import load_profile
from testbed.kmesh.records import Storage
from testbed.lab.family import Address, ConnTuple
from testbed.observe.callbacks import Callback, CallbackFlag, Figures, Op

CLIENT, SERVER = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.2")
CONTROL = ipaddress.ip_address("0.0.0.2")
CONNECTION = ConnTuple(CLIENT, 40000, SERVER, 80)
C, S = 1, 2  # cookies
RULES = Rules(load_profile("main").control, stores=frozenset({socket.AF_INET, socket.AF_INET6}))
BOTH = (Managed(CLIENT, 0), Managed(SERVER, 0))


def callback(cookie: int, op: Op, local: tuple[Address, int], remote: tuple[Address, int]) -> Callback:
    args = (int(TcpState.LAST_ACK), int(TcpState.CLOSE), 0)
    state = TcpState.ESTABLISHED
    return Callback(
        0, cookie, None, op, args, socket.AF_INET, state, CallbackFlag(0), *local, *remote, Figures(*range(6))
    )


A, B = (CLIENT, 40000), (SERVER, 80)
SYN = callback(C, Op.TCP_CONNECT, A, B)
ACTIVE = callback(C, Op.ACTIVE_ESTABLISHED, A, B)
PASSIVE = callback(S, Op.PASSIVE_ESTABLISHED, B, A)
CLIENT_CLOSED = callback(C, Op.STATE, A, B)
SERVER_CLOSED = callback(S, Op.STATE, B, A)
WHOLE = (SYN, ACTIVE, PASSIVE, CLIENT_CLOSED, SERVER_CLOSED)
ENROL = callback(3, Op.TCP_CONNECT, (CLIENT, 40001), (CONTROL, 929))
REMOVE = callback(3, Op.TCP_CONNECT, (CLIENT, 40001), (CONTROL, 930))
NEARLY = callback(3, Op.TCP_CONNECT, (CLIENT, 40001), (CONTROL, 931))


def fed(*happened: Action | Callback, rules: Rules = RULES) -> Model:
    model = Model(rules)
    for time, each in enumerate(happened):
        if isinstance(each, Callback):
            model.callback(each)
        else:
            model.act(each, time)
    return model


def reported(model: Model) -> list[str]:
    short = {Direction.OUTBOUND: "out", Direction.INBOUND: "in"}
    return [
        f"{short[each.direction]} {each.state.name}{'' if each.certain else '?'}" for each in model.records
    ]


OUT, IN, OUT_CLOSED, IN_CLOSED = "out ESTABLISHED", "in ESTABLISHED", "out CLOSE", "in CLOSE"
OFF, ON = Configured("monitoring", False), Configured("monitoring", True)
RECORDS: dict[str, tuple[Sequence[Action | Callback], list[str]]] = {
    "both managed": ((*BOTH, *WHOLE), [OUT, IN, OUT_CLOSED, IN_CLOSED]),
    "nobody managed": (WHOLE, []),
    "client managed": ((BOTH[0], *WHOLE), [OUT, OUT_CLOSED]),
    "another value": ((Managed(CLIENT, 1), *WHOLE), []),
    "enrolled": ((ENROL, *WHOLE), [OUT, OUT_CLOSED]),
    "enrolled over a stale value": ((Managed(CLIENT, 7), ENROL, *WHOLE), [OUT, OUT_CLOSED]),
    "removed": ((ENROL, REMOVE, *WHOLE), []),
    "nearly enrolled": ((NEARLY, *WHOLE), []),
    "cleared": ((*BOTH, Cleared("managed"), *WHOLE), []),
    "enrolled in mid-connection": ((SYN, ACTIVE, ENROL, CLIENT_CLOSED), []),
    "removed in mid-connection": ((ENROL, SYN, ACTIVE, REMOVE, CLIENT_CLOSED), [OUT, OUT_CLOSED]),
    "exempt": ((*BOTH, Configured("node_ip", CLIENT), *WHOLE), [OUT, OUT_CLOSED]),
    "no storage": ((*BOTH, Stored(C, None), ACTIVE, PASSIVE), [IN]),
    "not monitored": ((OFF, *BOTH, *WHOLE), []),
    "monitored no longer": ((*BOTH, SYN, ACTIVE, OFF, CLIENT_CLOSED), [OUT]),
    "monitored at its end alone": ((OFF, *BOTH, SYN, ACTIVE, ON, CLIENT_CLOSED), ["out CLOSE?"]),
    "closed twice": ((*BOTH, *WHOLE, CLIENT_CLOSED), [OUT, IN, OUT_CLOSED, IN_CLOSED]),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records(name: str) -> None:
    happened, expected = RECORDS[name]
    assert reported(fed(*happened)) == expected


def test_tuples_run_from_client_to_server() -> None:
    model = fed(*BOTH, Connecting(C, (SERVER, 80)), *WHOLE)
    assert {each.tuple for each in model.records} == {CONNECTION}
    assert [each.asked_for for each in model.records] == [(SERVER, 80), None, (SERVER, 80), None]
    assert [connection for connection, _ in model.requests] == [CONNECTION]


def test_who_is_exempt_is_not_asked_about_nor_watched() -> None:
    model = fed(*BOTH, Configured("pod_gateway", CLIENT), SYN, ACTIVE, PASSIVE)
    assert model.requests == []
    assert model.watched == [(ACTIVE, True), (PASSIVE, False)]


@pytest.mark.parametrize(
    ("closes", "sure", "unsure"),
    [((), True, False), ((CLIENT_CLOSED,), False, True), ((CLIENT_CLOSED, SERVER_CLOSED), False, False)],
)
def test_verdicts(closes: tuple[Callback, ...], sure: bool, unsure: bool) -> None:
    model = fed(*BOTH, SYN, ACTIVE, PASSIVE, Judged(CONNECTION, Verdict.DENY), *closes)
    assert (CONNECTION in model.verdicts, CONNECTION in model.unsure_verdicts) == (sure, unsure)


def test_the_sockhash_has_those_via_a_waypoint() -> None:
    marked = (*BOTH, Stored(C, Storage(via_waypoint=True)), SYN, ACTIVE)
    assert fed(*marked).sockhash == {C: CONNECTION}
    assert fed(*marked, CLIENT_CLOSED).sockhash == {}
    assert fed(*marked[1:]).sockhash == {}, "an unmanaged client has no waypoint"
