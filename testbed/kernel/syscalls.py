"""System calls that Python 3.11 has no function for.

The numbers are those of ``asm-generic/unistd.h``, the same on x86-64 and arm64 for all calls that
came after Linux 5.0. Each function raises `OSError` with the call's errno.

Only the standard library is imported here: the spawner process uses this module too, and stays
small for it.
"""

import ctypes
import os
import struct
from _signal import SIGCHLD, SIGKILL  # type: ignore[import-not-found]  # signal is several times its size

_libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL: a fork must not come back without the GIL
_libc.syscall.restype = ctypes.c_long

_SYS_PIDFD_SEND_SIGNAL = 424
_SYS_MOUNT = {"fsopen": 430, "fsconfig": 431, "fsmount": 432}
_SYS_CLONE3 = 435

CLONE_INTO_CGROUP = 0x200000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000

_PR_SET_PDEATHSIG = 1
_FSCONFIG_CMD_CREATE = 6
_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # struct __user_cap_header_struct: version 3, itself


def _syscall(name: str, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


class Cloner:
    """Forks into cgroups (Linux 5.7). For callers with a single thread.

    Python's own fork hooks, which are about threads, are left out: they cost a child 0.25 ms. What the
    call takes is kept from one to the next: between them the spawner touches as little as can be.
    """

    def __init__(self) -> None:
        self._pidfd = ctypes.c_int(-1)
        # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
        # set_tid, set_tid_size, cgroup
        flags, pidfd = CLONE_INTO_CGROUP | CLONE_PIDFD, ctypes.addressof(self._pidfd)
        self._arguments = (ctypes.c_uint64 * 11)(flags, pidfd, 0, 0, SIGCHLD)
        self._call = (ctypes.c_long(_SYS_CLONE3), self._arguments, ctypes.c_size_t(88))

    def into(self, cgroup_fd: int) -> tuple[int, int]:
        """Returns (pid, pidfd) in the parent and (0, -1) in the child."""
        self._arguments[10] = cgroup_fd
        pid: int = _libc.syscall(*self._call)
        if pid == 0:
            return 0, -1
        if pid < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"clone3: {os.strerror(code)}")
        return pid, self._pidfd.value


def clone_into(cgroup_fd: int) -> tuple[int, int]:
    """Forks into a cgroup once, as `Cloner` does."""
    return Cloner().into(cgroup_fd)


def unshare(flags: int) -> None:
    """Leaves shared namespaces for new ones (unshare(2)); Python has it from 3.12 on."""
    if _libc.unshare(flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")


def setns(fd: int, kind: int) -> None:
    """Enters the namespace that ``fd`` stands for, of a kind CLONE_NEW…; Python has it from 3.12 on."""
    if _libc.setns(fd, kind) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def die_with_parent(number: int = SIGKILL) -> None:
    """Asks for a signal when the parent's thread that made this process ends; 0 for none any more."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


Capabilities = ctypes.Array[ctypes.c_uint32]
"""Effective, permitted and inheritable ones, their lower halves and then the upper ones."""


def capabilities() -> Capabilities:
    """Those of this process."""
    sets = (ctypes.c_uint32 * 6)()
    if _libc.capget(_CAPABILITY_HEADER, sets) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capget: {os.strerror(code)}")
    return sets


def set_capabilities(sets: Capabilities) -> None:
    """Takes these for its own, from now on."""
    if _libc.capset(_CAPABILITY_HEADER, sets) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")


def only_effective(kept: int) -> Capabilities:
    """This process's, but for the effective ones that are none of these bits: they stay permitted."""
    sets = capabilities()
    sets[0] &= kept & 0xFFFFFFFF
    sets[3] &= kept >> 32
    return sets


def raise_effective() -> None:
    """Makes all that is permitted effective again."""
    sets = capabilities()
    sets[0], sets[3] = sets[1], sets[4]
    set_capabilities(sets)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Sends a signal to exactly the process that the pidfd stands for (Linux 5.1)."""
    _syscall("pidfd_send_signal", _SYS_PIDFD_SEND_SIGNAL, pidfd, number, None, 0)


def disconnect(fd: int) -> None:
    """Dissolves a TCP socket's association (connect(2) to AF_UNSPEC): it can be connected again."""
    if _libc.connect(fd, bytes(16), 16) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"connect to AF_UNSPEC: {os.strerror(code)}")


def mount_detached(filesystem: str) -> int:
    """Mounts a file system nowhere (Linux 5.2) and returns a descriptor of its root directory.

    The mount is owned by the descriptor: it is in no mount table and goes with the last close.
    """
    context = _syscall("fsopen", _SYS_MOUNT["fsopen"], filesystem.encode(), 1)
    try:
        _syscall("fsconfig", _SYS_MOUNT["fsconfig"], context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall("fsmount", _SYS_MOUNT["fsmount"], context, 1, 0)
    finally:
        os.close(context)
