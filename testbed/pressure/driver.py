"""Connections at full speed: the workers of a lab's client and server, and what they counted."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from testbed.closing import Closing
from testbed.errors import TestbedError, UsageError
from testbed.kernel.counters import counters, grown
from testbed.lab.command import Command
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.wait import eventually
from testbed.pressure.worker import PACKET, files

_START = (
    "import sys; sys.path.append(sys.argv[2]); from testbed.pressure.worker import main; main(sys.argv[1])"
)
_ROLES = ("server", "client")
# A TIME_WAIT of each connection for a minute, and no port that another one has: the hosts are the
# lab's own. A connect() that nobody answers fails after 7 s instead of 130.
_SYSCTLS = {
    "client": {
        "net/ipv4/ip_local_port_range": "1024 65535",
        "net/ipv4/tcp_max_tw_buckets": str(1 << 21),
        "net/ipv4/tcp_syn_retries": "2",
    },
    "server": {"net/core/somaxconn": "65535"},
}
_DEADLINE_S = 60.0
_REST_DEADLINE_S = 15.0


@dataclass(frozen=True)
class Storage:
    """What each client's socket gets before its connect(): the map, its value, where the port goes."""

    fd: int
    value: bytes
    port_at: int
    """Offset of the server's port in the value; -1: it is not in it."""


@dataclass(frozen=True)
class Slice:
    """Connections in a row. ``opened`` as the client saw them, ``accepted`` as the server did.

    ``errors`` of each side by errno name; ``ports`` are the first clients', as many as were asked for.
    """

    count: int
    opened: int
    accepted: int
    seconds: float
    connect_errors: Mapping[str, int] = field(default_factory=dict)
    server_errors: Mapping[str, int] = field(default_factory=dict)
    ports: tuple[int, ...] = ()

    @property
    def rate(self) -> float:
        """Connections a second, from the first connect() to the last close() of either side."""
        return self.opened / self.seconds if self.opened else 0.0


class Workers(Closing):
    """A client's and a server's worker in a lab. Closing it ends both, and waits until they have."""

    def __init__(self, lab: Lab, family: Family, concurrency: int, storage: Storage | None = None) -> None:
        """``concurrency`` is how many connections are open at a time. `UsageError` when that is too many."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files(concurrency) > hard:
            why = f"a process may have {hard} files open here (`ulimit -Hn`)"
            raise UsageError(f"open {concurrency} connections at a time", why)
        self._lab = lab
        self._family = family
        self._concurrency = concurrency
        self._storage = storage
        self._controls: dict[str, socket.socket] = {}
        self._commands: dict[str, Command] = {}
        with ExitStack() as stack:
            ends = dict(zip(_ROLES, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), strict=True))
            self._stderr = os.memfd_create("stderr", os.MFD_CLOEXEC)
            stack.callback(os.close, self._stderr)
            for role, end in ends.items():
                with end:
                    self._start(role, end.fileno(), stack)
            self._undo = stack.pop_all()
        self.begin()

    def _start(self, role: str, peer: int, stack: ExitStack) -> None:
        host = self._lab[role]
        host.namespace.sysctl(_SYSCTLS[role])
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(control.close)
        package = Path(__file__).resolve().parents[2]
        with theirs:
            command = host.spawn(
                [sys.executable, "-I", "-S", "-c", _START, role, str(package)],
                stdin=theirs.fileno(),
                stdout=peer,
                stderr=self._stderr,
            )
        stack.callback(command.close)
        stack.callback(command.kill)
        self._controls[role] = control
        self._commands[role] = command
        fds = [self._storage.fd] if self._storage and role == "client" else []
        socket.send_fds(control, [json.dumps(files(self._concurrency)).encode()], fds)

    def _order(self, role: str, count: int, ports: int) -> dict[str, object]:
        if role == "server":
            family = int(self._family.listener)
            return {"family": family, "concurrency": self._concurrency, "ports": ports}
        storage = self._storage
        return {
            "family": int(self._family.client),
            "concurrency": self._concurrency,
            "count": count,
            "address": self._family.as_client(self._lab["server"].address(self._family.version)),
            "storage": storage.value.hex() if storage else "",
            "port_at": storage.port_at if storage else -1,
        }

    def run(
        self, count: int, meanwhile: Callable[[], None] | None = None, every: float = 0.0, ports: int = 0
    ) -> Slice:
        """Makes ``count`` connections and closes them. Calls ``meanwhile`` every so many seconds.

        Of so many ``ports`` the clients' are in the result, in the order of the server's accept().
        """
        for role, control in self._controls.items():
            try:
                control.send(json.dumps(self._order(role, count, ports)).encode())
            except ConnectionError as error:
                raise self._ended(role) from error
        waiting = {control: role for role, control in self._controls.items()}
        said: dict[str, dict[str, object]] = {}
        deadline = time.monotonic() + _DEADLINE_S
        while waiting:
            left = max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select(list(waiting), [], [], every if meanwhile else left)
            if meanwhile is not None:
                meanwhile()
            for control in ready:
                said[waiting[control]] = self._receive(control, waiting[control])
                del waiting[control]
            if not ready and left <= 0:
                raise TestbedError(
                    f"make {count} connections",
                    f"after {_DEADLINE_S:g} s the {' and the '.join(waiting.values())} is still at it",
                    details=self._sockets(),
                )
        return _slice(count, said["client"], said["server"])

    def _receive(self, control: socket.socket, role: str) -> dict[str, object]:
        try:
            data = control.recv(PACKET)
        except ConnectionError:
            data = b""
        if not data:
            raise self._ended(role)
        reply: dict[str, object] = json.loads(data)
        return reply

    def _ended(self, role: str) -> TestbedError:
        """Why a worker is gone; it ends with 0 when the other one has."""
        code = self._commands[role].wait()
        if code == 0:
            (role,) = set(_ROLES) - {role}
            code = self._commands[role].wait()
        said = os.pread(self._stderr, 1 << 16, 0).decode(errors="replace").strip()
        why = signal.Signals(-code).name if code < 0 else (said.splitlines() or [f"with {code}"])[-1]
        return TestbedError("make connections", f"the {role}'s process has ended: {why}")

    def _sockets(self) -> str:
        found = Counter(
            f"{name}: {sock.state.name}" for name in _ROLES for sock in self._lab[name].tcp_sockets()
        )
        return "\n".join(f"{what} × {count}" for what, count in found.items())

    def _pid(self, role: str) -> int:
        return self._lab[role].namespace.pid  # of its broker: /proc/PID/net shows its namespace

    def _read_counters(self) -> dict[str, dict[str, int]]:
        return {role: counters(self._pid(role)) for role in _ROLES}

    def begin(self) -> None:
        """Whatever the hosts do from now on is of the workers."""
        self._before = self._read_counters()
        self._in_use_before = self._in_use()

    def kernel_counts(self) -> dict[str, dict[str, int]]:
        """By how much the kernel's own counters (``TcpActiveOpens``, …) of either host have grown."""
        return {role: grown(self._before[role], now) for role, now in self._read_counters().items()}

    def settle(self) -> None:
        """Waits until no more TCP sockets of the lab are hashed than before. `WaitExpired` says how many.

        ``inuse`` of /proc/net/sockstat is without TIME_WAITs: sock_diag would list them one by one.
        """
        eventually(
            lambda: self._in_use() <= self._in_use_before,
            awaited=lambda: f"{self._in_use_before} TCP sockets in the lab, not {self._in_use()}",
            deadline=_REST_DEADLINE_S,
        )

    def _in_use(self) -> int:
        return sum(_tcp_in_use(self._pid(role)) for role in _ROLES)

    def close(self) -> None:
        self._undo.close()


def _tcp_in_use(pid: int) -> int:
    """TCP sockets of a process's namespace, both IP versions (net/ipv4/proc.c)."""
    total = 0
    for file, name in (("sockstat", "TCP:"), ("sockstat6", "TCP6:")):
        for line in (Path("/proc") / str(pid) / "net" / file).read_text(encoding="ascii").splitlines():
            first, _, rest = line.partition(" ")
            if first == name:
                total += int(rest.split()[1])
    return total


def _slice(count: int, client: Mapping[str, object], server: Mapping[str, object]) -> Slice:
    def number(said: Mapping[str, object], name: str) -> int:
        return int(str(said[name]))

    def errors(said: Mapping[str, object]) -> dict[str, int]:
        found = said["errors"]
        assert isinstance(found, dict)
        return found

    ports = server["ports"]
    assert isinstance(ports, list)
    end = max(number(client, "end"), number(server, "end"))
    return Slice(
        count,
        number(client, "done"),
        number(server, "done"),
        (end - number(client, "start")) / 1e9,
        errors(client),
        errors(server),
        tuple(ports),
    )
