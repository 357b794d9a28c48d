"""Netlink requests in batches: built by pyroute2, sent as bytes over a socket that a broker made.

pyroute2's own sockets set one request at a time and live in one namespace a process; here the
socket is handed over from the namespace it belongs to, and a whole configuration is one packet.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.errors import MachineError, command
from testbed.kernel.privileges import refusal

NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_SEQUENCE = struct.Struct("=I")
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NLMSGERR_ATTR_MSG = 1
_RECEIVE = 256 * 1024


@dataclass(frozen=True)
class Message:
    """One encoded request, and what it is for in words (``add 10.0.0.1/24 to eth0``)."""

    what: str
    data: bytes


def encode(
    what: str, build: Callable[[], Any], kind: int, fields: dict[str, Any], *, flags: int = 0
) -> Message:
    """Encodes a request with one of pyroute2's message classes (``build``)."""
    message = build()
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST | flags
    for name, value in fields.items():
        message[name] = value
    message.encode()
    return Message(what, bytes(message.data))


def prepare(sock: socket.socket) -> socket.socket:
    """Sets what this module expects of a netlink socket; returns it."""
    sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    sock.settimeout(10.0)
    return sock


def _packets(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yields (type, flags, sequence, payload) of each message in a received buffer."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _error_text(flags: int, payload: bytes) -> str:
    """The kernel's own words behind an error (extended ack, Linux 4.12), if it gave any."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    offset = 4 + _HEADER.size
    while offset + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, offset)
        if kind == _NLMSGERR_ATTR_MSG:
            return payload[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += max((length + 3) & ~3, 4)
    return ""


def execute(sock: socket.socket, messages: Sequence[Message]) -> list[bytes]:
    """Sends all messages in one packet and waits until all are carried out.

    Returns the payloads that came besides the acknowledgements (answers to RTM_GET… requests), in
    order. The first refusal is raised as `MachineError`; the later messages were carried out still.
    """
    buffer = bytearray()
    start = 0
    for sequence, message in enumerate(messages, 1):
        start = len(buffer)
        buffer += message.data
        _SEQUENCE.pack_into(buffer, start + 8, sequence)
        buffer += bytes(-len(buffer) % 4)
    # They are carried out in order, and a refusal needs no flag to be told: the last one's will do.
    flags = struct.unpack_from("=H", buffer, start + 6)[0] | NLM_F_ACK
    struct.pack_into("=H", buffer, start + 6, flags)
    sock.send(buffer)
    answers: list[bytes] = []
    refused: MachineError | None = None
    done = not messages
    while not done:
        for kind, flags, sequence, payload in _packets(sock.recv(_RECEIVE)):
            if kind != _NLMSG_ERROR:
                answers.append(payload)
                continue
            done = sequence == len(messages)
            code = struct.unpack_from("=i", payload)[0]
            if code and refused is None:
                words = _error_text(flags, payload)
                why = refusal(code, "CAP_NET_ADMIN") + (f", {words}" if words else "")
                refused = MachineError(messages[sequence - 1].what, why, command("doctor"))
    if refused is not None:
        raise refused
    return answers


def dump(sock: socket.socket, message: bytes) -> list[bytes]:
    """Sends one request; returns the payload of every message of the answer, up to its end or ACK.

    `OSError` when the kernel refuses.
    """
    sock.send(message)
    payloads: list[bytes] = []
    while True:
        for kind, _flags, _sequence, payload in _packets(sock.recv(_RECEIVE)):
            if kind in {_NLMSG_DONE, _NLMSG_ERROR}:
                # the end carries an error too: where nobody answers for the family, for example
                code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                if code > 0:
                    raise OSError(code, f"netlink: {os.strerror(code)}")
                return payloads
            payloads.append(payload)
