"""Segments that no kernel would send, made by scapy and put on the wire."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import ExitStack
from typing import Any

from testbed.errors import UsageError
from testbed.lab.family import Address
from testbed.lab.host import Host


def segment(source: tuple[Address, int], destination: tuple[Address, int], **fields: Any) -> Any:
    """A TCP segment in its IP packet, as scapy's layers: ``fields`` are those of scapy's TCP.

    What they leave out scapy fills in: checksum, lengths, ``flags="S"``.
    """
    # importing scapy takes longer than a whole scenario
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6

    (src, sport), (dst, dport) = source, destination
    network = IP if src.version == 4 else IPv6
    return network(src=str(src), dst=str(dst)) / TCP(sport=sport, dport=dport, **fields)


def inject(host: Host, packets: list[Any]) -> None:
    """Sends IP packets of scapy from a host's first interface, as they are."""
    from scapy.layers.l2 import Ether

    end = host.ends[0]
    with ExitStack() as stack:
        sock = host.socket(socket.AF_PACKET, socket.SOCK_RAW)
        stack.callback(host.namespace.let_go, sock)
        sock.bind((end.name, 0))
        for packet in packets:
            sock.send(bytes(Ether(src=end.mac, dst=end.mac) / packet))  # both ends of a link have one MAC


def nobodys_address(host: Host, version: int) -> Address:
    """An address on the host's link that no host has: no kernel answers for it with a RST."""
    for interface in host.ends[0].addresses:
        if interface.version == version:
            network = ipaddress.ip_network(interface.network)
            return network[network.num_addresses - 2 if version == 4 else 0xFFFE]
    raise UsageError(f"find an IPv{version} address beside {host.name}'s", "it has none")
