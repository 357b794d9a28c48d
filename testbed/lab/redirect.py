"""Clients that ask for one address and are connected to another, as a mesh does with theirs."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from socket import AF_INET, SOCK_DGRAM
from typing import overload

from testbed.bpf.attach import attach
from testbed.bpf.bcc_loader import SourceSet
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.maps import RingReader
from testbed.bpf.own_program import load_own
from testbed.closing import Closing
from testbed.data import data_dir
from testbed.errors import UsageError
from testbed.kernel.sockdiag import socket_cookie
from testbed.lab.chronicle import Note
from testbed.lab.family import Address, endpoint, unmapped_bytes
from testbed.lab.host import Host
from testbed.lab.lab import Lab

Endpoint = tuple[Address, int]
"""An address and a port."""

_NOBODY = ("127.0.0.1", 9)  # nothing is sent there


def redirect_sources() -> SourceSet:
    """The sources of the program, which every kernel from 5.8 on takes."""
    bpf = data_dir("bpf")
    programs = (("redirect4", ProgramKind.CONNECT4), ("redirect6", ProgramKind.CONNECT6))
    maps = ("redirections", "namespaces", "redirects")
    return SourceSet("redirect", (bpf / "redirect.c",), (bpf / "include",), programs, maps)


@dataclass(frozen=True)
class Redirect:
    """One connect() that was redirected: when (CLOCK_MONOTONIC, ns), by the socket with which cookie."""

    time_ns: int
    cookie: int
    asked_for: Endpoint
    to: Endpoint

    def __str__(self) -> str:
        return f"the socket with the cookie {self.cookie}: {endpoint(*self.asked_for)} → {endpoint(*self.to)}"


class Redirected(Sequence[Redirect], Closing):
    """What was redirected in a lab, oldest first. A witness of the lab while connects are redirected."""

    def __init__(self, ring: RingReader) -> None:
        self._ring = ring
        self._redirects: list[Redirect] = []
        ring.take()  # what another lab left
        self._is_open = True

    def read(self) -> None:
        """Takes in what has come."""
        if self._is_open:
            self._redirects += map(_decode, self._ring.take())

    def fileno(self) -> int:
        """A descriptor that is readable when a connect() has been redirected."""
        return self._ring.fileno()

    def pending(self, present: Set[int]) -> list[str]:  # noqa: ARG002 (a witness's)
        """Nothing: a connect() has been redirected before its socket is more than a closed one."""
        return []

    def story(self) -> str:
        """Who was redirected, in lines."""
        return "\n".join(["connects that were redirected:", *(f"    {each}" for each in self or ["none"])])

    def notes(self) -> Iterator[Note]:
        """Who was redirected, for a story."""
        for each in self:
            text = f"connect() to {endpoint(*each.asked_for)} redirected to {endpoint(*each.to)}"
            yield Note(each.time_ns, "redirect", text, cookie=each.cookie)

    def __len__(self) -> int:
        self.read()
        return len(self._redirects)

    @overload
    def __getitem__(self, index: int) -> Redirect: ...
    @overload
    def __getitem__(self, index: slice) -> list[Redirect]: ...
    def __getitem__(self, index: int | slice) -> Redirect | list[Redirect]:
        self.read()
        return self._redirects[index]

    def close(self) -> None:
        """Reads for the last time; what has been read stays."""
        if self._is_open:
            self.read()
            self._is_open = False


class Redirection(Closing):
    """The program that rewrites where a TCP connect() goes, loaded once a process."""

    def __init__(self, loader: ObjectLoader | None = None) -> None:
        """``loader`` is one that is there already."""
        self._set = load_own(redirect_sources(), loader)
        self._map = self._set.maps["redirections"]
        self._ring = self._set.maps["redirects"].reader
        self._lab: Lab | None = None

    @contextmanager
    def of(self, lab: Lab, redirected: Mapping[Endpoint, Endpoint]) -> Iterator[Redirected]:
        """Within the block, who connects to a key is connected to its value. Both are of one IP version.

        A program under test sees the address asked for in its connect hook, and the value from then
        on; so does getpeername(). ``::ffff:a.b.c.d`` is redirected as a.b.c.d is. The host that has
        the value's address is not redirected: what is there reaches the key. `UsageError` where no
        host of the lab has it, and while connects are redirected already, in this lab or another one.
        """
        if self._lab is not None:
            why = f"those of {self._lab!r} are, and the program's maps are one lab's at a time"
            raise UsageError(f"redirect connects in {lab!r}", why, "name all of them at once")
        with ExitStack() as stack:
            self._lab = lab
            stack.callback(setattr, self, "_lab", None)
            told = stack.enter_context(Redirected(self._ring))
            lab.witnesses.append(told)
            stack.callback(lab.witnesses.remove, told)
            lab.chronicles.append(told)
            for program in self._set.programs.values():
                attach(program, lab.observer_fd, stack)
            for asked_for, to in redirected.items():
                self._add(lab, asked_for, to, stack)
            yield told

    def _add(self, lab: Lab, asked_for: Endpoint, to: Endpoint, stack: ExitStack) -> None:
        what, key = f"redirect {endpoint(*asked_for)} to {endpoint(*to)}", _encode(asked_for)
        if asked_for[0].version != to[0].version:
            raise UsageError(what, "one is an IPv4 address, the other an IPv6 one")
        there = [host for host in lab.hosts.values() if to[0] in host.addresses]
        if not there:
            raise UsageError(what, f"no host of {lab.topology.name} has {to[0]}")
        spared = there[0].netns_cookie or self.netns_cookie(there[0])
        self._map.set(key, _encode(to) + bytes(4) + spared.to_bytes(8, "little"))
        stack.callback(self._map.delete, key)

    def netns_cookie(self, host: Host) -> int:
        """The cookie of a host's network namespace, also before Linux 5.14; in a lab that is redirected."""
        namespaces = self._set.maps["namespaces"]
        with host.socket(AF_INET, SOCK_DGRAM) as sock, ExitStack() as stack:
            key = socket_cookie(sock).to_bytes(8, "little")
            namespaces.set(key, bytes(8))
            stack.callback(namespaces.delete, key)
            sock.connect(_NOBODY)
            return int.from_bytes(namespaces.get(key) or b"", "little")

    def close(self) -> None:
        self._set.close()


def _decode(data: bytes) -> Redirect:
    """``struct redirect_event``, 56 bytes."""
    time_ns, cookie = struct.unpack_from("=QQ", data)
    return Redirect(time_ns, cookie, _endpoint(data[16:36]), _endpoint(data[36:56]))


def _endpoint(data: bytes) -> Endpoint:
    return unmapped_bytes(data[:16]), int.from_bytes(data[16:18], "big")


def _encode(where: Endpoint) -> bytes:
    """``struct endpoint``, 20 bytes."""
    address, port = where
    if isinstance(address, ipaddress.IPv4Address):
        address = ipaddress.IPv6Address(f"::ffff:{address}")
    return address.packed + port.to_bytes(2, "big") + bytes(2)
