"""Segments made without scapy are those that scapy makes."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from testbed.lab.family import Address
from testbed.lab.segments import FIN, RST, SYN, plain_segment, segment


@pytest.mark.parametrize(
    ("wanted", "scapys"),
    [
        ({}, {}),
        ({"checksum": 0xBAD}, {"chksum": 0xBAD}),
        ({"flags": SYN | FIN}, {"flags": "SF"}),
        ({"flags": SYN | RST}, {"flags": "SR"}),
        ({"flags": 0}, {"flags": ""}),
        ({"header_words": 4}, {"dataofs": 4}),
    ],
)
@pytest.mark.parametrize("addresses", [("10.77.0.9", "10.77.0.2"), ("fd77::fffe", "fd77::2")])
def test_as_scapy_makes_them(
    addresses: tuple[str, str], wanted: dict[str, Any], scapys: dict[str, Any]
) -> None:
    ends: list[tuple[Address, int]] = [
        (ipaddress.ip_address(address), port) for address, port in zip(addresses, (40000, 443), strict=True)
    ]
    assert plain_segment(ends[0], ends[1], **wanted) == bytes(segment(ends[0], ends[1], **scapys))
