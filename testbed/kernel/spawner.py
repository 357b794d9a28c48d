"""The process that namespaces and brokers come from: starts it, asks it, and ends it."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket as Socket

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.ending import undisturbed
from testbed.errors import MachineError, errno_name, remedy, starting
from testbed.kernel import broker
from testbed.kernel.line import LOG, REPLY_DEADLINE_S, Line, control_pair
from testbed.kernel.namespace import Namespace
from testbed.kernel.privileges import LAB, refusal
from testbed.logs import save_log

__all__ = ["REPLY_DEADLINE_S", "Births", "Namespace", "Spawner"]

_NEEDED = "run as root (CAP_SYS_ADMIN and CAP_NET_ADMIN) on Linux 5.10 or later"
_MORE_NAMESPACES = "let the machine have more of them: `sysctl user.max_net_namespaces`"
_OF_EACH = 3  # descriptors of a host in a message, either way
_AT_ONCE = broker.FDS // _OF_EACH
_START = (
    "import sys; sys.path.append(sys.argv[1]);"
    " from testbed.kernel.nursery import main; main(*map(int, sys.argv[2:]))"
)


class Births(Closing):
    """Namespaces that the spawner has been asked for, and makes meanwhile; in `forked`, their brokers too."""

    def __init__(
        self,
        line: Line,
        names: Sequence[str],
        sysctls: Mapping[str, str],
        let_go: Callable[[Socket], None],
    ) -> None:
        self._line = line
        self._let_go = let_go
        self._asked = [
            (chunk, line.request("namespaces", len(chunk), dict(sysctls))) for chunk in _chunks(names)
        ]

    @contextmanager
    def forked(self, cgroup_fds: Mapping[str, int]) -> Iterator[dict[str, Namespace]]:
        """The namespaces, by name. Their brokers are forked during the block, each into its cgroup.

        They are there when it ends. `MachineError` when the kernel refuses a namespace or a broker; then
        none is left. Nor is one when the block fails.
        """
        with ExitStack() as undo:
            made: dict[str, Namespace] = {}
            forks: list[tuple[list[Namespace], int]] = []
            while self._asked:
                names, number = self._asked.pop(0)
                namespaces, fork = self._begin(names, number, cgroup_fds, undo)
                made.update(zip(names, namespaces, strict=True))
                forks.append((namespaces, fork))
            with ExitStack() as births:  # each reply is taken, whatever the one before it said
                for namespaces, number in reversed(forks):
                    births.callback(self._born, namespaces, number)
                yield made
            undo.pop_all()

    def _begin(
        self, names: Sequence[str], number: int, cgroup_fds: Mapping[str, int], undo: ExitStack
    ) -> tuple[list[Namespace], int]:
        """Takes the namespaces of one request, and asks for their brokers before anything else."""
        with ExitStack() as controls:
            pairs = []
            with undisturbed():  # an interrupt within the pair's making would leave it to the collector
                for _ in names:
                    ours, theirs = control_pair()
                    undo.enter_context(ours)
                    controls.enter_context(theirs)
                    pairs.append((ours, theirs))
            fds = self._made(names, number)
            unowned = controls.enter_context(ExitStack())
            unowned.callback(broker.close_all, fds)
            each_fds = [fds[start : start + _OF_EACH] for start in range(0, len(fds), _OF_EACH)]
            passed: list[int] = []
            for name, (_, theirs), (netns, *_) in zip(names, pairs, each_fds, strict=True):
                passed += [cgroup_fds[name], theirs.fileno(), netns]
            fork = self._line.request("brokers", fds=passed)
            unowned.pop_all()
        namespaces = [
            Namespace(name, ours, own, self._let_go)
            for name, (ours, _), own in zip(names, pairs, each_fds, strict=True)
        ]
        for each in namespaces:
            undo.callback(each.close)
        return namespaces, fork

    def _made(self, names: Sequence[str], number: int) -> list[int]:
        try:
            return self._line.reply(number)[1]
        except OSError as error:
            code = error.errno or 0
            raise MachineError(
                f"make the network namespace of {_listed(names)}",
                f"{refusal(code, *LAB)}: {error.strerror}",
                _MORE_NAMESPACES if code == errno.ENOSPC else remedy(code) or _NEEDED,
            ) from error

    def _born(self, namespaces: Sequence[Namespace], number: int) -> None:
        try:
            pids, pidfds = self._line.reply(number)
        except OSError as error:
            code = error.errno or 0
            raise MachineError(
                f"fork the brokers of {_listed([each.name for each in namespaces])}",
                f"{errno_name(code)}: {error.strerror}",
                remedy(code) or _NEEDED,
            ) from error
        for each, pid, pidfd in zip(namespaces, pids, pidfds, strict=True):
            each.born(pid, pidfd)

    def close(self) -> None:
        """Drops what nobody has taken."""
        self._line.discard([number for _, number in self._asked])
        self._asked.clear()


def _chunks(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


class Spawner(Closing):
    """The small process that namespaces and brokers come from. One a process; a context manager."""

    def __init__(self, buckets: int = 8192) -> None:
        """``buckets`` are those of each namespace's table of TCP connections (from Linux 6.1 on)."""
        ours, theirs = control_pair()
        with theirs:
            package = Path(__file__).resolve().parents[2]
            # not to our own stderr: it and its brokers can outlive us, where a lab is handed on
            with save_log(LOG, "").open("ab") as log, starting("the spawner of brokers"):
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        "-c",
                        _START,
                        str(package),
                        str(theirs.fileno()),
                        str(buckets),
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                )
                acquired("process", self._process.pid)
        self._line = Line(ours, "the spawner")

    @property
    def pid(self) -> int:
        return self._process.pid

    def births(self, names: Sequence[str], sysctls: Mapping[str, str]) -> Births:
        """Asks for network namespaces with these sysctls, for hosts of these names. To be closed."""
        return Births(self._line, names, sysctls, self.let_go)

    def let_go(self, sock: Socket) -> None:
        """Closes a socket whose close() the kernel is slow with, in a process of its own.

        A packet socket's takes 10 ms: ``packet_release`` waits until no CPU can be sending to it.
        """
        try:
            if self._line.sock.fileno() >= 0:  # else it was abandoned, and there is no hurry any more
                self._line.request("let_go", fds=[sock.fileno()], wanted=False)
        finally:
            sock.close()

    def abandon(self) -> None:
        """Leaves it to a child that was forked: its copy of the control socket keeps it."""
        self._line.close()
        self._process.returncode = 0  # nobody waits for it here any more

    def close(self) -> None:
        """Ends the spawner, and with it every broker that is left."""
        self._line.close()
        try:
            self._process.wait(REPLY_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
