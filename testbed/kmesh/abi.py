"""Names and numbers of the program set's interface, as data.

``MAIN`` is the interface of Kmesh since v1.1 ("main"): map names by role, the control address, and
which ports are in which order.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

PortOrder = Literal["little", "big"]
HOST_ORDER: PortOrder = "little"
NETWORK_ORDER: PortOrder = "big"


class Direction(IntEnum):
    """Seen from the host that reports: accepted there, or connected from there."""

    INBOUND = 1
    OUTBOUND = 2


class Verdict(IntEnum):
    """What user space decided on a connection."""

    ALLOW = 0
    DENY = 1


@dataclass(frozen=True)
class Abi:
    """One era of the interface. Map roles hold the map's name."""

    era: str
    managed: str
    storage: str
    sockhash: str
    auth_requests: str
    auth_results: str
    observe: str
    log: str
    control_ipv4: ipaddress.IPv4Address
    control_ipv6: ipaddress.IPv6Address
    enrol_port: int
    remove_port: int
    auth_ports: PortOrder
    observe_ports: PortOrder
    sockhash_ports: PortOrder
    storage_ports: PortOrder


MAIN = Abi(
    era="main",
    managed="km_manage",
    storage="km_sockstorage",
    sockhash="km_socket",
    auth_requests="km_auth_req",
    auth_results="km_auth_res",
    observe="km_tcp_probe",
    log="km_log_event",
    control_ipv4=ipaddress.IPv4Address("0.0.0.2"),
    control_ipv6=ipaddress.IPv6Address("::2"),
    enrol_port=929,
    remove_port=930,
    auth_ports=HOST_ORDER,
    observe_ports=HOST_ORDER,
    sockhash_ports=NETWORK_ORDER,
    storage_ports=NETWORK_ORDER,
)
