"""The kernel's own word on TCP sockets: sock_diag (Linux 3.3), read over a socket of the namespace."""

from __future__ import annotations

import ipaddress
import socket
import struct
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from testbed.kernel.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, dump

NETLINK_SOCK_DIAG = 4
_SO_COOKIE = 57  # Linux 4.12; not in Python's socket module
_TCPDIAG_GETSOCK = 18
_SOCK_DESTROY = 21
_ALL_STATES = 0x1FFF  # not BOUND_INACTIVE: for that the kernel walks all ports of all namespaces, 0.8 ms
_GETSOCK = struct.Struct("=IHHII 52x II")  # nlmsghdr, then struct inet_diag_req
_DUMP = _GETSOCK.pack(_GETSOCK.size, _TCPDIAG_GETSOCK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0, _ALL_STATES, 0)
_DESTROY = struct.Struct("=IHHII BBBBI 48s")  # nlmsghdr, then struct inet_diag_req_v2
_SOCKET_ID = struct.Struct("!HH 16s16s 4s8s")  # struct inet_diag_sockid; interface and cookie as they came
_MESSAGE = struct.Struct("=BBBB 2s2s16s16sI8s IIIII")  # struct inet_diag_msg

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TcpState(IntEnum):
    """States of a TCP socket (``include/net/tcp_states.h``; also the BPF_TCP_… numbers)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12
    BOUND_INACTIVE = 13  # asks sock_diag for what is bound only (Linux 6.8)


_STATES = {state.value: state for state in TcpState}
# Only the peer's or a timer's next segment leads on from here.
_ON_THE_MOVE = frozenset(
    {
        TcpState.SYN_SENT,
        TcpState.SYN_RECV,
        TcpState.NEW_SYN_RECV,
        TcpState.FIN_WAIT1,
        TcpState.LAST_ACK,
        TcpState.CLOSING,
    }
)


class TcpSocket(NamedTuple):
    """One socket as the kernel reports it. Ports in host order; queues in bytes."""

    state: TcpState
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    cookie: int
    receive_queue: int
    send_queue: int
    inode: int
    interface: int
    """The index of the device that it is bound to, 0 of none."""

    @property
    def at_rest(self) -> bool:
        """Nothing is under way: no handshake, no unanswered FIN, no data that waits for its ACK."""
        if self.state in _ON_THE_MOVE:
            return False
        return self.state is TcpState.LISTEN or self.send_queue == 0

    @property
    def is_whole(self) -> bool:
        """Not what is left of a closed one: its TIME_WAIT, or FIN_WAIT2 without a descriptor."""
        if self.state is TcpState.FIN_WAIT2:
            return self.inode != 0
        return self.state is not TcpState.TIME_WAIT

    def __str__(self) -> str:
        ends = f"{_end(self.local, self.local_port)} → {_end(self.remote, self.remote_port)}"
        return f"{ends} {self.state.name}" + (f", {self.send_queue} B to send" if not self.at_rest else "")


def _end(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def tcp_sockets(sock: socket.socket) -> list[TcpSocket]:
    """All TCP sockets of the namespace that the NETLINK_SOCK_DIAG socket was made in.

    One walk for both families, by the request that is older than sock_diag: the kernel walks the
    sockets of every namespace each time.
    """
    return [_parse(payload) for payload in dump(sock, _DUMP)]


def destroy(sock: socket.socket, which: TcpSocket) -> None:
    """Aborts a TCP socket of the namespace that ``sock`` (NETLINK_SOCK_DIAG) was made in.

    Its peer gets a RST, its owner ECONNABORTED (Linux 4.5). `OSError`: EOPNOTSUPP where the kernel
    was built without CONFIG_INET_DIAG_DESTROY, ENOENT where that socket is no more.
    """
    family = socket.AF_INET if which.local.version == 4 else socket.AF_INET6
    identity = _SOCKET_ID.pack(
        which.local_port,
        which.remote_port,
        which.local.packed,
        which.remote.packed,
        struct.pack("=I", which.interface),
        struct.pack("=Q", which.cookie),
    )
    header = (_DESTROY.size, _SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    dump(sock, _DESTROY.pack(*header, family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES, identity))


def socket_cookie(sock: socket.socket) -> int:
    """The kernel's number of a socket, the same in callbacks and in sock_diag."""
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")


def _parse(payload: bytes) -> TcpSocket:
    fields = _MESSAGE.unpack_from(payload)
    family, state = fields[0], fields[1]
    sport, dport, source, destination, interface, cookie = fields[4:10]
    _expires, receive_queue, send_queue, _uid, inode = fields[10:]
    return TcpSocket(
        _STATES[state],
        _address(family, source),
        int.from_bytes(sport, "big"),
        _address(family, destination),
        int.from_bytes(dport, "big"),
        struct.unpack("=Q", cookie)[0],
        receive_queue,
        send_queue,
        inode,
        interface,
    )


def _address(family: int, data: bytes) -> Address:
    return _of_bytes(data[:4] if family == socket.AF_INET else data)


@lru_cache(maxsize=4096)
def _of_bytes(packed: bytes) -> Address:
    return ipaddress.ip_address(packed)
