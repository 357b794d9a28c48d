"""A process that is forked for each life: with all modules imported, a run of 0.9 s takes 0.3.

``python -m tests.faults.nursery FD`` reads requests from a socket. It imports, and has acquired nothing when
it forks; each child is a process as of a person's own command from its first line on.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import xdist.plugin  # type: ignore[import-untyped]  # noqa: F401

import testbed.__main__
import testbed.capsule.keeping
import testbed.capsule.replay
import testbed.cli
import testbed.gates
import testbed.keeper.enter
import testbed.keeper.hold
import testbed.keeper.setup
import testbed.keeper.start
import testbed.kmesh.oracle.oracle
import testbed.kmesh.story
import testbed.kmesh.telling
import testbed.observe.recorder
import testbed.pytest_plugin
import testbed.pytest_record
from testbed.kernel import ownership
from tests.faults.countdown import Countdown


@dataclass(frozen=True)
class Start:
    """What a life is: ``kind`` testbed or pytest, its words, its environment and where it is counted."""

    kind: str
    words: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    registry: str
    stop_at: int | None = None
    forked: bool = False
    times: int = 1


def _serve(sock: socket.socket) -> Start | None:
    """Forks for each request and says the pid; then its exit code, when asked. A `Start` is the child's."""
    while data := sock.recv(65536):
        request = json.loads(data)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            sock.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            return Start(**request)
        sock.send(json.dumps(pid).encode())
    return None


def _be(start: Start) -> None:
    """From here on as a command that a person has started."""
    os.setsid()
    folder = Path(start.folder)
    for fd, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, fd)
        os.close(file)
    os.environ.clear()
    os.environ.update(start.environment)
    os.chdir(folder)
    tempfile.tempdir = None
    ownership.REGISTRY = Path(start.registry)
    sys.argv = [start.kind, *start.words]
    if start.stop_at is not None:
        Countdown(
            start.stop_at, folder / "tell", folder / "proceed", start.times, forked=start.forked
        ).begin()
    if start.kind == "testbed":
        testbed.__main__.main()
    elif start.kind == "pytest":
        sys.exit(pytest.main(list(start.words)))
    else:
        sys.argv = list(start.words)
        runpy.run_path(start.words[0], run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what runs in the background
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        life = _serve(control)
    if life is not None:
        _be(life)
