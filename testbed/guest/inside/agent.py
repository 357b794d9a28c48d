"""The guest's agent: says that it is up, then hands over to the module that the host named.

The kernel's command line has the nonce, ``testbed.nonce=``, and that module, ``testbed.start=``.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

from testbed.deadlines import SLOWNESS
from testbed.guest.inside.port import Port
from testbed.guest.pace import Pace

_RNDADDENTROPY = 0x40085203  # include/uapi/linux/random.h
_LOOPS = 100_000


def main(failed: list[str]) -> None:
    """``failed`` are the words of what the first process could not set up."""
    words = dict(
        word.split("=", 1)
        for word in Path("/proc/cmdline").read_text(encoding="utf-8").split()
        if "=" in word
    )
    port = Port(words["testbed.nonce"])
    loops = _speed()
    os.environ[SLOWNESS] = str(Pace.of(loops).scale)  # before what has deadlines is imported
    port.send(event="up", release=os.uname().release, failed=failed, loops=loops)
    try:
        importlib.import_module(words["testbed.start"]).main(port)
    except BaseException as error:
        import traceback

        port.send(event="fault", why=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
        raise


def _speed() -> float:
    """Turns of an empty loop in a second: the host scales its deadlines by this."""
    start = time.perf_counter()
    for _ in range(_LOOPS):
        pass
    return _LOOPS / (time.perf_counter() - start)


def wake(message: dict[str, Any]) -> None:
    """Takes the host's time and randomness: a restored guest has those of its snapshot."""
    if "time" in message:
        time.clock_settime(time.CLOCK_REALTIME, float(message["time"]))
    if "seed" in message:
        seed = bytes.fromhex(message["seed"])
        with open("/dev/urandom", "wb", buffering=0) as device:  # noqa: PTH123
            fcntl.ioctl(device, _RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
    sys.stdout.flush()
