"""System calls that Python 3.11 has no function for.

The numbers are those of ``asm-generic/unistd.h``, the same on x86-64 and arm64 for all calls that
came after Linux 5.0. Each function raises `OSError` with the call's errno.

Only the standard library is imported here: the spawner process uses this module too, and stays
small for it.
"""

import ctypes
import os
import signal
import struct

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


def _syscall(name: str, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def clone_into(cgroup_fd: int) -> tuple[int, int]:
    """Forks into a cgroup (Linux 5.7).

    Returns (pid, pidfd) in the parent and (0, -1) in the child. For callers with a single thread:
    Python's own fork hooks, which are about threads, are left out. They cost a child 0.25 ms.
    """
    pidfd = ctypes.c_int(-1)
    flags = CLONE_INTO_CGROUP | CLONE_PIDFD
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
    # set_tid, set_tid_size, cgroup
    arguments = struct.pack(
        "=11Q", flags, ctypes.addressof(pidfd), 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd
    )
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    pid = _syscall("clone3", _SYS_CLONE3, buffer, ctypes.c_size_t(len(arguments)))
    if pid == 0:
        return 0, -1
    return pid, pidfd.value


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


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Asks for a signal when the parent's thread that made this process ends; 0 for none any more."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


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
