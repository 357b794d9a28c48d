"""Frames taken apart: as scapy takes them apart, and in words where they are no TCP."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether

from testbed.observe.segments import Segment, TcpFlag, decode_frame

# with both addresses: scapy would ask the machine's network for the one that it was not given
MACS: dict[str, Any] = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
OURS = {"MSS": "MSS", "WScale": "WSCALE", "SAckOK": "SACK_OK", "SAck": "SACK", "Timestamp": "TIMESTAMP"}
NUMBER = st.integers(0, 2**32 - 1)
PORT = st.integers(0, 65535)
OPTION = st.one_of(
    st.tuples(st.just("MSS"), PORT),
    st.tuples(st.just("WScale"), st.integers(0, 255)),
    st.just(("SAckOK", b"")),
    st.tuples(st.just("SAck"), st.tuples(NUMBER, NUMBER)),
    st.tuples(st.just("Timestamp"), st.tuples(NUMBER, NUMBER)),
    st.just(("NOP", None)),
)


@st.composite
def packets(draw: st.DrawFn) -> Any:
    """An Ethernet frame with a TCP segment in it, as scapy's layers."""
    layers: Any = Ether(**MACS)
    for _ in range(draw(st.integers(0, 2))):
        layers /= Dot1Q(vlan=draw(st.integers(0, 4095)))
    hop_limit = draw(st.integers(1, 255))
    if draw(st.booleans()):
        ends: dict[str, Any] = {name: str(draw(st.ip_addresses(v=4))) for name in ("src", "dst")}
        layers /= IP(**ends, ttl=hop_limit, options=[IPOption_NOP()] * draw(st.integers(0, 4)))
    else:
        ends = {name: str(draw(st.ip_addresses(v=6))) for name in ("src", "dst")}
        layers /= IPv6(**ends, hlim=hop_limit)
        for header in draw(st.lists(st.sampled_from([IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt]), max_size=2)):
            layers /= header()
    return (
        layers
        / TCP(
            sport=draw(PORT),
            dport=draw(PORT),
            seq=draw(NUMBER),
            ack=draw(NUMBER),
            flags=draw(st.integers(0, 255)),
            window=draw(PORT),
            options=draw(st.lists(OPTION, max_size=3, unique_by=lambda option: option[0])),
        )
        / draw(st.binary(max_size=40))
    )


def unmapped(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


@settings(deadline=None)
@given(packets())
def test_as_scapy_takes_it_apart(packet: Any) -> None:
    data = bytes(packet)
    ours, theirs = decode_frame(data), Ether(data)
    network, tcp = theirs[IP] if IP in theirs else theirs[IPv6], theirs[TCP]
    assert isinstance(ours, Segment)
    assert ours.tuple == (unmapped(network.src), tcp.sport, unmapped(network.dst), tcp.dport)
    assert (ours.seq, ours.ack, int(ours.flags), ours.window) == (
        tcp.seq,
        tcp.ack,
        int(tcp.flags),
        tcp.window,
    )
    assert (ours.payload, ours.payload_length) == (bytes(tcp.payload), len(tcp.payload))
    assert ours.hop_limit == (network.ttl if IP in theirs else network.hlim)
    expected: dict[str, object] = {}
    for name, value in tcp.options:
        if name in OURS:
            expected[OURS[name]] = {"SAckOK": True, "SAck": (value,)}.get(name, value)
    assert ours.options == expected


@given(
    st.one_of(st.binary(max_size=90), packets().map(lambda packet: bytes(packet)[:60])), st.integers(0, 99)
)
@settings(deadline=None)
def test_whatever_it_is_it_is_told(data: bytes, length: int) -> None:
    assert str(decode_frame(data, length))


SYN = Ether(**MACS) / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=7, dport=80, flags="S", seq=5, window=9)
WHERE6: dict[str, Any] = {"src": "fd00::1", "dst": "fd00::2"}


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (SYN, "10.0.0.1:7 → 10.0.0.2:80 SYN seq 5 window 9"),
        (Ether(**MACS) / ARP(), "ARP, 42 B"),
        (Ether(**MACS, type=0x88CC) / b"1234", "protocol 0x88cc, 18 B"),
        (
            Ether(**MACS) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(),
            "UDP over IPv4, 10.0.0.1 → 10.0.0.2, 8 B",
        ),
        (Ether(**MACS) / IPv6(**WHERE6) / UDP(), "UDP over IPv6, fd00::1 → fd00::2, 8 B"),
        (
            Ether(**MACS) / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(),
            "ICMP over IPv4, 10.0.0.1 → 10.0.0.2, 8 B",
        ),
        (
            Ether(**MACS) / IP(src="10.0.0.1", dst="10.0.0.2", frag=2, proto=6) / b"rest",
            "a fragment of TCP over IPv4, 10.0.0.1 → 10.0.0.2, 4 B",
        ),
        (
            Ether(**MACS) / IPv6(**WHERE6) / IPv6ExtHdrFragment(m=1, nh=6) / b"some",
            "a fragment of TCP over IPv6, fd00::1 → fd00::2, 4 B",
        ),
    ],
)
def test_in_words(packet: Any, words: str) -> None:
    assert str(decode_frame(bytes(packet))) == words


def test_of_a_frame_that_was_cut_off_the_length_is_the_wires() -> None:
    data = bytes(SYN / bytes(1000))
    cut = decode_frame(data[:100], len(data))
    assert isinstance(cut, Segment)
    assert (cut.flags, len(cut.payload), cut.payload_length) == (TcpFlag.SYN, 46, 1000)


def test_the_padding_of_a_short_frame_is_no_payload() -> None:
    padded = decode_frame(bytes(SYN).ljust(60, b"\0"))
    assert isinstance(padded, Segment)
    assert padded.payload == b""
