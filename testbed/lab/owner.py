"""A process that holds the only descriptor of a socket: it can be killed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from testbed.acquired import acquired
from testbed.lab.command import Command
from testbed.lab.host import Host


@contextmanager
def owned_by_a_process(host: Host, sock: socket.socket) -> Iterator[Command]:
    """Gives a socket of the host away to a process there, which does nothing with it.

    The socket is closed here, so that what ends the process ends the connection. Yields the process.
    """
    with ExitStack() as stack:
        # it waits for its input, which never comes; the socket is its output
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        acquired("pipe", read_end)
        acquired("pipe", write_end)
        stack.callback(os.close, write_end)
        stack.callback(os.close, read_end)
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        acquired("descriptor", nowhere)
        stack.callback(os.close, nowhere)
        process = stack.enter_context(
            host.spawn(["cat"], stdin=read_end, stdout=sock.fileno(), stderr=nowhere)
        )
        sock.close()
        yield process
