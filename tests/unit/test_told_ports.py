"""Ports in what a run tells: by whose they are, also where two hosts chose the same one by chance."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.kmesh.story import owners_of, told_endpoint

CLIENT, SERVER, OTHER = map(ip_address, ("10.77.0.1", "10.77.0.2", "10.77.0.9"))
CALLBACKS: list[Any] = [
    SimpleNamespace(host="client", local=CLIENT, local_port=40000),
    SimpleNamespace(host="server", local=SERVER, local_port=40000),
    SimpleNamespace(host="server", local=SERVER, local_port=50000),
]


@pytest.mark.parametrize(
    ("address", "port", "told"),
    [
        (CLIENT, 40000, "10.77.0.1 port client's"),
        (SERVER, 40000, "10.77.0.2 port server's"),
        (OTHER, 40000, "10.77.0.9 port client/server's"),
        (CLIENT, 50000, "10.77.0.1 port server's"),
        (CLIENT, 50001, "10.77.0.1 port nobody's"),
        (CLIENT, 929, "10.77.0.1 port 929"),
    ],
)
def test_whose_it_is(address: Any, port: int, told: str) -> None:
    assert told_endpoint(address, port, owners_of(CALLBACKS)) == told
