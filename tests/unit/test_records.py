"""Keys, values and records against bytes written out by hand."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.abi import HOST_ORDER, NETWORK_ORDER, Absent, Direction, PortOrder
from testbed.kmesh.layouts import Layout
from testbed.kmesh.log_event import LogEvent
from testbed.kmesh.profile import RecordSpec, builtin_profiles, load_profile
from testbed.kmesh.records import (
    AuthRequest,
    MalformedRecord,
    ObserveRecord,
    Storage,
    decode_address_key,
    decode_tuple,
    encode_address_key,
    encode_tuple,
    waypoint_metadata,
)
from testbed.lab.family import Address, ConnTuple, unmapped

A4, B4 = (ipaddress.ip_address(text) for text in ("10.0.0.1", "10.0.0.2"))
A6, B6 = (ipaddress.ip_address(text) for text in ("fd00::1", "fd00::2"))
V4 = ConnTuple(A4, 0x1234, B4, 80)
V6 = ConnTuple(A6, 0x1234, B6, 80)
MAIN = load_profile("main")


def layout(spec: RecordSpec | None) -> Layout:
    assert spec is not None
    return Layout.of(spec, "main")


OBSERVE, STORAGE = layout(MAIN.records.observe), layout(MAIN.records.storage)
AUTH = layout(MAIN.records.auth_request)
V4_HOST = bytes.fromhex("0a000001 0a000002 3412 5000") + bytes(24)
V4_NETWORK = bytes.fromhex("0a000001 0a000002 1234 0050") + bytes(24)
V6_HOST = A6.packed + B6.packed + bytes.fromhex("3412 5000")


@pytest.mark.parametrize(
    ("connection", "order", "data"),
    [(V4, HOST_ORDER, V4_HOST), (V4, NETWORK_ORDER, V4_NETWORK), (V6, HOST_ORDER, V6_HOST)],
)
def test_tuples_both_ways(connection: ConnTuple, order: PortOrder, data: bytes) -> None:
    assert encode_tuple(connection, order) == data
    assert decode_tuple(data, order) == connection


@pytest.mark.parametrize(
    ("address", "key"),
    [(A4, bytes.fromhex("0a000001") + bytes(12)), (A6, bytes.fromhex("fd") + bytes(14) + b"\x01")],
)
def test_managed_keys_both_ways(address: Address, key: bytes) -> None:
    assert encode_address_key(address) == key
    assert decode_address_key(key) == address


def observe_bytes() -> bytearray:
    """Each field at the contract's offset, each with a value of its own."""
    data = bytearray(128)
    for offset, value in {
        0: 0,
        60: 11,
        64: 12,
        68: 1,
        72: 2,
        76: 7,
        104: 6,
        108: 15,
        112: 16,
        116: 17,
        120: 18,
    }.items():
        struct.pack_into("<I", data, offset, value)
    for offset, value in {80: 21, 88: 22, 96: 23}.items():
        struct.pack_into("<Q", data, offset, value)
    data[4:40] = V4_HOST
    data[40:46] = bytes.fromhex("0a000009 5100")
    return data


def test_an_observe_record() -> None:
    record = ObserveRecord.decode(bytes(observe_bytes()), OBSERVE, HOST_ORDER)
    assert record.tuple == V4
    assert record.orig_dst == (ipaddress.ip_address("10.0.0.9"), 0x51)
    assert record.event == (Direction.OUTBOUND, TcpState.CLOSE)
    assert (record.sent_bytes, record.received_bytes, record.conn_success) == (11, 12, True)
    assert (record.duration_ns, record.start_ns, record.last_report_ns) == (21, 22, 23)
    assert (record.protocol, record.srtt_us, record.rtt_min) == (6, 15, 16)
    assert (record.total_retrans, record.lost_out) == (17, 18)


def test_an_observe_record_in_ipv6() -> None:
    data = observe_bytes()
    data[0] = 1
    data[4:40] = V6_HOST
    data[40:58] = B6.packed + bytes.fromhex("5100")
    record = ObserveRecord.decode(bytes(data), OBSERVE, HOST_ORDER)
    assert record.tuple == V6
    assert record.orig_dst == (B6, 0x51)


@pytest.mark.parametrize(
    ("offset", "what"), [(0, "type 9"), (72, "9 is not a valid Direction"), (76, "TcpState")]
)
def test_an_observe_record_that_nobody_writes(offset: int, what: str) -> None:
    data = observe_bytes()
    struct.pack_into("<I", data, offset, 9 if offset != 76 else 99)
    with pytest.raises(MalformedRecord, match=what):
        ObserveRecord.decode(bytes(data), OBSERVE, HOST_ORDER)


def test_a_record_of_another_size() -> None:
    with pytest.raises(MalformedRecord, match="has 128 bytes, this one 112"):
        ObserveRecord.decode(bytes(112), OBSERVE, HOST_ORDER)


def test_an_auth_request() -> None:
    assert AuthRequest.decode(bytes(4) + V4_HOST, AUTH, HOST_ORDER).tuple == V4
    assert AuthRequest.decode(b"\x01\0\0\0" + V6_HOST, AUTH, HOST_ORDER).tuple == V6


def test_a_log_event() -> None:
    event = LogEvent.decode(struct.pack("<i", -28) + b"no space\0".ljust(256, b"\xff"))
    assert (event.ret, event.message) == (-28, "no space")


@pytest.mark.parametrize("address", [B4, B6])
def test_storage_both_ways(address: Address) -> None:
    storage = Storage(1, 2, 2, True, True, False, True, (address, 80))
    data = storage.encode(STORAGE, NETWORK_ORDER)
    assert len(data) == 64
    assert data[16:21] == bytes([2, 1, 1, 0, 1])
    assert Storage.decode(data, STORAGE, NETWORK_ORDER) == storage


def test_waypoint_metadata() -> None:
    assert waypoint_metadata(B4, 80) == bytes.fromhex("01 00000006 0a000002 0050 fe 00000000")
    assert waypoint_metadata(B6, 80) == bytes.fromhex("01 00000012") + B6.packed + bytes.fromhex(
        "0050 fe 00000000"
    )


def test_mapped_addresses_are_ipv4() -> None:
    assert unmapped("::ffff:10.0.0.1") == A4
    assert unmapped("fe80::1%eth0") == ipaddress.ip_address("fe80::1")


def test_a_field_that_an_era_does_not_have_is_absent() -> None:
    eras = {profile.era: profile for profile in builtin_profiles()}
    old = Layout.of(eras["v0.5.0"].records.observe, "v0.5.0")  # type: ignore[arg-type]
    data = bytearray(112)
    data[52], data[72] = 2, 7  # direction, state: at the offsets of v0.5.0
    data[4 : 4 + 36], data[56:64] = V4_HOST, (99).to_bytes(8, "little")
    data[52:56], data[56:64] = (2).to_bytes(4, "little"), (99).to_bytes(8, "little")
    record = ObserveRecord.decode(bytes(data), old, HOST_ORDER)
    assert (record.event, record.duration_ns) == ((Direction.OUTBOUND, TcpState.CLOSE), 99)
    for name in ("start_ns", "last_report_ns", "orig_dst"):
        with pytest.raises(Absent, match=r"v0\.5\.0: its records"):
            getattr(record, name)


def test_what_an_era_stores_nowhere_cannot_be_written() -> None:
    old = layout(load_profile("v1.0.0").records.storage)
    assert Storage(connect_ns=1, direction=2).encode(old, NETWORK_ORDER) == bytes(
        [1, *bytes(7), 2, *bytes(7)]
    )
    with pytest.raises(Absent, match="has no via_waypoint"):
        Storage(via_waypoint=True).encode(old, NETWORK_ORDER)
