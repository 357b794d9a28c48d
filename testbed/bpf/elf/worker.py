"""The process that ELF objects are loaded in: libbpf may crash or hang on a damaged one.

The worker is a bare interpreter. It reads and loads what it is asked for, hands the descriptors of
programs and maps over (SCM_RIGHTS), and keeps none. The descriptors own everything, so that nothing
is lost with the worker: when it crashes, whoever asked says so and starts another.

Lifetimes: the worker ends when its control socket closes, with the process that started it, and at
the latest when the deadline of what it is about is over.

Messages are JSON in SOCK_SEQPACKET packets, described in `testbed.bpf.elf.request`. Only the
standard library and the bare libbpf modules are imported here, and neither dataclasses nor pathlib:
they take longer to import than all the rest.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import socket
from contextlib import ExitStack

from testbed.bpf.elf.request import PACKET, ObjectReply, Request, send_packets
from testbed.bpf.elf.work import Stderr, load_set

_PR_SET_PDEATHSIG = 1
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_FDS = 250  # of the 253 that a message may have


def _work(control: socket.socket, request: Request, fds: list[int], stderr: Stderr) -> None:
    """Answers one request. "done" is sent when every descriptor of it is closed here."""
    with ExitStack() as stack:
        for fd in fds:
            stack.callback(os.close, fd)
        replies, blobs, made = load_set(request, fds, stderr, stack)
        hand_over(control, replies, blobs, made)
    send_packets(control, ["done"])


def hand_over(
    control: socket.socket, replies: list[ObjectReply], blobs: list[bytes], made: list[int]
) -> None:
    """Sends the replies in a memfd, the BTF behind them, and every descriptor."""
    with os.fdopen(os.memfd_create("reply", os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(b"".join((json.dumps(replies).encode(), b"\n", *blobs)))
        fds = [file.fileno(), *made]
        for start in range(0, len(fds), _FDS):
            send_packets(control, ["fds"], fds[start : start + _FDS])


def _tell(control: socket.socket, error: OSError | MemoryError) -> None:
    """What the machine has run out of; it takes no descriptor and no module to say so."""
    number = error.errno if isinstance(error, OSError) else errno.ENOMEM
    if number in _SCARCE:
        send_packets(control, ["scarce", str(number)])
    else:
        _tell_fault(control)


def _tell_fault(control: socket.socket) -> None:
    import traceback

    send_packets(control, ["fault", traceback.format_exc()[-PACKET // 4 :]])


def main(control_fd: int, parent: int) -> None:
    """Answers requests until the control socket closes, or the process ``parent`` ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died before that
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to everybody; we end with the socket
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=control_fd)
    stderr = Stderr()
    while True:
        data, fds, flags, _ = socket.recv_fds(control, PACKET, _FDS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        if flags & socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            send_packets(control, ["scarce", str(errno.EMFILE)])
            continue
        request = json.loads(data)
        signal.setitimer(signal.ITIMER_REAL, request["deadline"])  # SIGALRM ends us, wherever we are
        try:
            _work(control, request, fds, stderr)
        except ConnectionError:
            return  # nobody waits for the answer
        except (OSError, MemoryError) as error:
            _tell(control, error)
        except BaseException:  # noqa: BLE001 (whatever it is: whoever asked is told)
            _tell_fault(control)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
