"""An end-to-end testbed for sockops eBPF programs on real kernels."""

import os
import sys

__version__ = "0.1.0"

_BYTECODE = 16 << 20  # bytes: several times that of all modules


def _has_room(folder: str) -> bool:
    """Where a disk runs full, Python 3.11 leaves half a .pyc file, and cannot start from then on."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize > _BYTECODE


if not _has_room(__path__[0]):
    sys.dont_write_bytecode = True
