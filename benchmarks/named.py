"""The pair by `ip` commands: named namespaces, in a mount namespace where nobody else sees the names."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import TypeVar

from benchmarks.asked import PRIVATE, Asked
from benchmarks.measure import clocked
from testbed.kernel.syscalls import CLONE_NEWNET, setns

T = TypeVar("T")
_HOSTS = ("client", "server")
_MAKE = (
    "netns add client",
    "netns add server",
    "link add eth0 netns client type veth peer name eth0 netns server",
)
_BRING_UP = (
    "link set lo up",
    "link set eth0 up",
    "addr add 10.77.0.{own}/24 dev eth0",
    "addr add fd77::{own}/64 dev eth0 nodad",
    "route add default via 10.77.0.{other}",
    "route add default via fd77::{other}",
)
_SCRIPT = """
mount -t tmpfs none /run || exit 1
while read -r _; do
{up}
echo ready
read -r _
ip netns delete client && ip netns delete server || exit 1
echo removed
done
"""


def _bring_up(own: int) -> list[str]:
    return [line.format(own=own, other=3 - own) for line in _BRING_UP]


def _commands() -> list[str]:
    """One command after the other, as people write them."""
    each = [(host, line) for own, host in enumerate(_HOSTS, 1) for line in _bring_up(own)]
    return [f"ip {line}" for line in _MAKE] + [f"ip -n {host} {line}" for host, line in each]


def _batches(folder: Path) -> list[str]:
    """Three batches: what makes the hosts, and one in each of them."""
    files = {"make": list(_MAKE)} | {host: _bring_up(own) for own, host in enumerate(_HOSTS, 1)}
    for name, lines in files.items():
        (folder / f"{name}.batch").write_text("\n".join(lines) + "\n", encoding="utf-8")
    make, *rest = (str(folder / f"{name}.batch") for name in files)
    return [
        f"ip -batch {make}",
        *(f"ip -n {host} -batch {file}" for host, file in zip(_HOSTS, rest, strict=True)),
    ]


class NamedPair:
    """A shell that makes the pair and takes it down again when asked."""

    def __init__(self, folder: Path, stack: ExitStack, *, batch: bool = False) -> None:
        """``folder``: for the files of ``ip -batch``."""
        lines = _batches(folder) if batch else _commands()
        script = _SCRIPT.format(up="\n".join(f"{line} || exit 1" for line in lines))
        self._shell = Asked("`ip` commands", [*PRIVATE, "sh", "-c", script], stack)

    @contextmanager
    def up(self, times: list[float]) -> Iterator[None]:
        """Up within the block; adds how long it took, in milliseconds."""
        with clocked(times):
            self._shell.ask()
            self._shell.answer()
        try:
            yield
        finally:
            self._shell.ask()
            self._shell.answer()

    def milliseconds(self) -> float:
        times: list[float] = []
        with self.up(times):
            return times[0]

    def first_connect(self, family: socket.AddressFamily, address: str) -> float:
        """How long connect() takes in hosts that have just been made, in milliseconds."""
        times: list[float] = []
        with self.up([]), ExitStack() as stack:
            listener = stack.enter_context(self._in("server", lambda: _listener(family)))
            client = stack.enter_context(self._in("client", lambda: socket.socket(family)))
            client.settimeout(10.0)
            with clocked(times):
                client.connect((address, listener.getsockname()[1]))
        return times[0]

    def _in(self, host: str, make: Callable[[], T]) -> T:
        """What is made in a thread that has entered a host's namespace."""
        fd = os.open(f"/proc/{self._shell.pid}/root/run/netns/{host}", os.O_RDONLY | os.O_CLOEXEC)

        def enter_and_make() -> T:
            setns(fd, CLONE_NEWNET)
            return make()

        try:
            return in_thread(enter_and_make)
        finally:
            os.close(fd)


def _listener(family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family)
    made.bind(("", 0))
    made.listen()
    return made


def in_thread(work: Callable[[], T]) -> T:
    """Runs in a thread of its own, whose namespaces are its own affair; raises what it raises."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 (it is raised where it is waited for)
            failed.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
