"""The loader's end of its process: starts a worker, asks it, and notices its end."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from testbed.acquired import acquired
from testbed.bpf.elf.request import PACKET, Request, send_packets
from testbed.closing import Closing
from testbed.errors import MachineError, TestbedError, errno_name, starting
from testbed.logs import save_log

_FDS = 253
_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from testbed.bpf.elf.worker import main; main(*map(int, sys.argv[2:]))"
)


def close_all(fds: Sequence[int]) -> None:
    """Closes descriptors."""
    for fd in fds:
        os.close(fd)


class Ended(Exception):
    """The worker is gone; its exit code, negative for a signal."""


class Worker(Closing):
    """One worker process. ``used`` is whether it has answered anything yet."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        acquired("socket", self.control.fileno())
        acquired("socket", theirs.fileno())
        self.used = False
        with theirs, ExitStack() as undo:
            undo.callback(self.control.close)
            package = Path(__file__).resolve().parents[3]
            undo.enter_context(starting("the loader's process"))
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-c",
                    _START,
                    str(package),
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            acquired("process", self._process.pid)
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Request, fds: Sequence[int]) -> list[int]:
        """The descriptors of the reply, the first of which holds its text. `Ended`."""
        with ExitStack() as stack:
            received: list[int] = []
            stack.callback(close_all, received)
            try:
                send_packets(self.control, request, fds)
                while True:
                    data, more, flags, _ = socket.recv_fds(
                        self.control, PACKET, _FDS, socket.MSG_CMSG_CLOEXEC
                    )
                    received += more
                    for fd in more:
                        acquired("object", fd)
                    if flags & socket.MSG_CTRUNC:
                        raise MachineError("load objects", errno_name(errno.EMFILE))
                    verb, *words = json.loads(data) if data else ["ended"]
                    if verb != "fds":
                        break
            except ConnectionError:
                verb = "ended"
            if verb == "ended":
                raise Ended(self._process.wait())
            if verb == "scarce":
                raise MachineError("load objects", errno_name(int(words[0])))
            if verb == "fault":
                log = save_log("loader-fault", words[0])
                last = words[0].strip().splitlines()[-1]
                raise TestbedError(
                    "load objects", f"a fault in the loader: {last}", f"please report it, with {log}"
                )
            self.used = True
            stack.pop_all()
        return received

    def close(self) -> None:
        self.control.close()
        self._process.kill()  # it may be busy with something that nobody waits for any more
        self._process.wait()
