"""The BPF storage of TCP sockets by sock_diag's word (Linux 5.7): of sockets that nobody here holds, too."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from testbed.kernel.netlink import NLM_F_DUMP, NLM_F_REQUEST, dump

_SOCK_DIAG_BY_FAMILY = 20
_ALL_STATES = 0x1FFF  # as in `testbed.kernel.sockdiag`
_REQUEST = struct.Struct("=IHHII BBBBI 48x")  # nlmsghdr, then struct inet_diag_req_v2
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_MESSAGE_SIZE = 72  # struct inet_diag_msg; its cookie:
_COOKIE_AT = 44
_TYPE = 0x3FFF  # without the bit that says nested

_INET_DIAG_REQ_SK_BPF_STORAGES = 2
_SK_DIAG_BPF_STORAGE_REQ_MAP_FD = 1
_INET_DIAG_SK_BPF_STORAGES = 20
_SK_DIAG_BPF_STORAGE = 1
_SK_DIAG_BPF_STORAGE_MAP_VALUE = 3


def socket_storages(sock: socket.socket, map_fd: int) -> dict[int, bytes]:
    """The values of a SK_STORAGE map by the cookies of their sockets.

    Of all TCP sockets of the namespace that ``sock`` (NETLINK_SOCK_DIAG) was made in, but those in
    CLOSE, which sock_diag does not list. `OSError` where the map is no such map.
    """
    wanted = _attribute(_SK_DIAG_BPF_STORAGE_REQ_MAP_FD, struct.pack("=I", map_fd))
    asked = _attribute(_INET_DIAG_REQ_SK_BPF_STORAGES, wanted)
    found: dict[int, bytes] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        header = (_REQUEST.size + len(asked), _SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
        request = _REQUEST.pack(*header, family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
        for payload in dump(sock, request + asked):
            (cookie,) = struct.unpack_from("=Q", payload, _COOKIE_AT)
            found.update((cookie, value) for value in _values(payload[_MESSAGE_SIZE:]))
    return found


def _attribute(kind: int, data: bytes) -> bytes:
    """Aligned to 4 bytes, as netlink has it."""
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def _attributes(data: bytes, wanted: int) -> Iterator[bytes]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if kind & _TYPE == wanted:
            yield data[_ATTRIBUTE.size : length]
        data = data[length + (-length % 4) :]


def _values(attributes: bytes) -> Iterator[bytes]:
    for storages in _attributes(attributes, _INET_DIAG_SK_BPF_STORAGES):
        for storage in _attributes(storages, _SK_DIAG_BPF_STORAGE):
            yield from _attributes(storage, _SK_DIAG_BPF_STORAGE_MAP_VALUE)
