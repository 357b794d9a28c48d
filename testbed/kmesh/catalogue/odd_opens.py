"""Ways to open a connection that the kernel takes another path for, or that come to nothing."""

from __future__ import annotations

import errno
import socket

from testbed.kernel.counters import grown
from testbed.kernel.sockdiag import TcpState
from testbed.kmesh.catalogue.case import Traffic
from testbed.kmesh.catalogue.stage import Stage, await_connected, bind, fails_with, port_of
from testbed.kmesh.catalogue.traffic import receive
from testbed.lab.gate import Gate
from testbed.lab.pair import Connection
from testbed.lab.segments import FIN, RST, SYN, inject, nobodys_address, plain_segment

# Documentation/networking/ip-sysctl.rst, tcp_fastopen: client, server, data in a SYN without a
# cookie (client, server), every listener takes part.
_FAST_OPEN = 0x1 | 0x2 | 0x4 | 0x200 | 0x400
_GREETING = b"hello"
_SYN_PAYLOAD = bytes(range(250)) * 4  # with all options, less than a segment holds


def timed_out(stage: Stage) -> list[Connection]:
    """The SYN is lost, and so is the one that repeats it."""
    lab = stage.pair.lab
    with stage.listen() as listener, stage.client_socket() as sock, stage.impatience().of(lab):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        with Gate(stage.client, stage.server) as gate:
            fails_with(
                errno.ETIMEDOUT,
                "connect() without a SYN-ACK",
                lambda: stage.client.connect(stage.server_address, port_of(listener), sock=sock),
            )
            # of how many, the kernel's timer decides: since Linux 6.5 it gives up by the time that has passed
            assert gate.lose() >= 2, "a SYN and one more were sent"
    return []


def fast_open(stage: Stage) -> list[Connection]:
    data = _SYN_PAYLOAD if stage.case.traffic is Traffic.IN_SYN else _GREETING
    for host in (stage.client, stage.server):
        stage.sysctl(host, tcp_fastopen=_FAST_OPEN)
    before = stage.server.counters()
    sock = stage.client_socket()
    with stage.listen() as listener:
        sent = stage.client.connect_with(data, stage.server_address, port_of(listener), sock)
        server = stage.accept(listener)
    receive(server, data)
    assert sent == len(data)
    assert grown(before, stage.server.counters()).get("TcpExtTCPFastOpenPassive") == 1
    return [Connection(sock, server)]


def simultaneous(stage: Stage) -> list[Connection]:
    """Two SYNs cross; nobody listens."""
    client = stage.client_socket()
    server = stage.undo.enter_context(stage.server.socket(stage.pair.family.listener))
    bind(client)
    bind(server)
    with Gate(stage.client, stage.server) as gate:
        stage.client.begin_connect(stage.server_address, port_of(server), client)
        stage.server.begin_connect(stage.client_address, port_of(client), server)
        gate.pass_on()
        for host, sock in ((stage.client, client), (stage.server, server)):
            assert stage.kernels_word(host, sock).state is TcpState.SYN_RECV
    for sock in (client, server):
        await_connected(sock)
    return [Connection(client, server)]


def cookies(stage: Stage) -> list[Connection]:
    stage.sysctl(stage.server, tcp_syncookies=2)  # always, not only when the queue overflows
    before = stage.server.counters()
    with stage.listen() as listener:
        connection = stage.connect(listener)
    counted = grown(before, stage.server.counters())
    assert counted.get("TcpExtSyncookiesSent") == counted.get("TcpExtSyncookiesRecv") == 1
    return [connection]


def half_open(stage: Stage) -> list[Connection]:
    """The SYN-ACK goes to an address that nobody has: no ACK, and no RST either."""
    nobody = nobodys_address(stage.client, stage.pair.family.version), 40000
    before = stage.server.counters()
    stage.sysctl(stage.server, tcp_synack_retries=0)
    with stage.listen() as listener, stage.impatience().of(stage.pair.lab):
        inject(stage.client, [plain_segment(nobody, (stage.server_address, port_of(listener)))])
        stage.pair.lab.settle()
    counted = grown(before, stage.server.counters())
    assert counted["TcpOutSegs"] == 1, "a SYN-ACK was sent"
    assert "TcpPassiveOpens" not in counted
    return []


def malformed(stage: Stage) -> list[Connection]:
    """What is no proper SYN is no beginning: a wrong checksum, a FIN or RST too, a header too short."""
    nobody = nobodys_address(stage.client, stage.pair.family.version), 40000
    with stage.listen() as listener:
        there = stage.server_address, port_of(listener)
        packets = [
            plain_segment(nobody, there, checksum=0xBAD),
            plain_segment(nobody, there, flags=SYN | FIN),
            plain_segment(nobody, there, flags=SYN | RST),
            plain_segment(nobody, there, flags=0),
            plain_segment(nobody, there, header_words=4),
        ]
        before, callbacks = stage.server.counters(), len(stage.tap)
        inject(stage.client, packets)
        stage.pair.lab.settle()
        counted = grown(before, stage.server.counters())
    assert counted["TcpInSegs"] == len(packets), "every one arrived"
    assert "TcpOutSegs" not in counted, "none was answered"
    assert not stage.tap[callbacks:]
    return []
