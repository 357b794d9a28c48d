"""Runs one command for the host, or a shell on the console.

Messages from the host: ``run`` (words, directory) or ``shell`` (rows, columns). To the host:
``waiting``, then ``output`` of the command as it comes, and ``exit`` with its code.
"""

from __future__ import annotations

import base64
import fcntl
import os
import selectors
import struct
import subprocess
import termios
import zlib
from pathlib import Path
from typing import Any

from testbed.guest.inside.agent import wake
from testbed.guest.inside.port import Port

_CHUNK = 65536
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as shells say it
_SIGNALLED = 128
_CONSOLE = "/dev/ttyS0"


def main(port: Port) -> None:
    """Waits for the host's message and does what it says."""
    port.send(event="waiting")
    message = port.receive()
    wake(message)
    code = _shell(message) if message["event"] == "shell" else _run(port, message)
    port.send(event="exit", code=code)


def _run(port: Port, message: dict[str, Any]) -> int:
    os.chdir(message["directory"])
    words = message["words"]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_as_others,  # noqa: PLW1509 (there is one thread)
        )
    except OSError as error:
        _tell(port, 2, f"{words[0]}: {error.strerror}\n".encode())
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
    with process, selectors.DefaultSelector() as selector:
        for number, stream in ((1, process.stdout), (2, process.stderr)):
            assert stream is not None, "it was asked for"
            selector.register(stream.fileno(), selectors.EVENT_READ, number)
        while selector.get_map():
            for key, _ in selector.select():
                if data := os.read(key.fd, _CHUNK):
                    _tell(port, key.data, data)
                else:
                    selector.unregister(key.fd)
    return process.returncode if process.returncode >= 0 else _SIGNALLED - process.returncode


def _tell(port: Port, stream: int, data: bytes) -> None:
    # a byte on the port takes 15 µs under emulation
    port.send(event="output", stream=stream, data=base64.b64encode(zlib.compress(data, 1)).decode())


def _as_others() -> None:
    """The agent is never killed when memory runs out; what it starts can be."""
    Path("/proc/self/oom_score_adj").write_bytes(b"0")


def _shell(message: dict[str, Any]) -> int:
    """A login shell with the console as its terminal, which Ctrl-C goes to."""
    console = os.open(_CONSOLE, os.O_RDWR)
    fcntl.ioctl(console, termios.TIOCSWINSZ, struct.pack("HHHH", message["rows"], message["columns"], 0, 0))
    child = os.fork()
    if child == 0:
        os.setsid()
        fcntl.ioctl(console, termios.TIOCSCTTY, 1)
        for number in (0, 1, 2):
            os.dup2(console, number)
        _as_others()
        os.environ["TERM"] = message["terminal"]
        shell = "/usr/bin/bash" if os.access("/usr/bin/bash", os.X_OK) else "/usr/bin/sh"
        os.execv(shell, ["-sh"])  # noqa: S606
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
