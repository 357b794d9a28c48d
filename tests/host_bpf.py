"""What is attached of BPF beside any lab: asked of the kernel by BPF_PROG_QUERY (Linux 4.15)."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from testbed.bpf.libbpf import object_ids, open_library
from testbed.closing import Closing

# enum bpf_attach_type of include/uapi/linux/bpf.h, by what they are attached to
_OF_CGROUPS = (*range(4), 6, *range(8, 16), *range(18, 23), *range(29, 33), 34, 43, *range(49, 54))
_OF_NAMESPACES = {17: "flow_dissector", 36: "sk_lookup"}
_OF_INTERFACES = {46: "tcx ingress", 47: "tcx egress"}
_NOT_KNOWN = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOENT, 524}  # without that kind; ENOTSUPP
_MOST = 64
_SIGNATURE = (
    "bpf_prog_query",
    ctypes.c_int,
    (
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_uint32,
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.POINTER(ctypes.c_uint32),
    ),
)


def mounted(kind: str) -> list[str]:
    """Where a file system of that kind is mounted (proc(5))."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [point for _, point, found, *_ in map(str.split, lines) if found == kind]


class Attachments(Closing):
    """Asks the kernel; owns a descriptor of the network namespace."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._query = open_library([_SIGNATURE]).bpf_prog_query
        self._netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._undo.callback(os.close, self._netns)

    def _programs(self, target: int, kind: int) -> list[int]:
        """The ids of the programs that are attached to a descriptor or an interface's index."""
        ids = (ctypes.c_uint32 * _MOST)()
        count = ctypes.c_uint32(_MOST)
        flags = ctypes.c_uint32()
        result = self._query(target, kind, 0, ctypes.byref(flags), ids, ctypes.byref(count))
        if result < 0 and -result not in _NOT_KNOWN:
            raise OSError(-result, f"BPF_PROG_QUERY: {os.strerror(-result)}")
        return list(ids[: count.value]) if result == 0 else []

    def of_cgroups(self, paths: Iterable[str]) -> Iterator[str]:
        """``cgroup PATH: type 3, programs [17]``, of these and of the roots."""
        if not object_ids("prog"):
            return
        for path in (*mounted("cgroup2"), *paths):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # somebody's, that went
            try:
                for kind in _OF_CGROUPS:
                    if found := self._programs(fd, kind):
                        yield f"cgroup {path}: type {kind}, programs {found}"
            finally:
                os.close(fd)

    def of_net(self, links: Iterable[str]) -> Iterator[str]:
        """What is attached to this network namespace, and by tcx to these interfaces of it (Linux 6.6)."""
        for kind, name in _OF_NAMESPACES.items():
            if found := self._programs(self._netns, kind):
                yield f"netns {name}: programs {found}"
        for link in links:
            for kind, name in _OF_INTERFACES.items():
                if found := self._programs(socket.if_nametoindex(link), kind):
                    yield f"link {link} {name}: programs {found}"

    def close(self) -> None:
        self._undo.close()
