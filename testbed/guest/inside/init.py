"""A guest's first process: makes a system of the bare kernel, starts the agent, and reaps who dies.

It is run by a bare Python (-I -S). Everything that takes time under emulation is left out of it.
"""

import ctypes
import fcntl
import json
import os
import resource
import socket
import struct
import sys

# /tmp and /run are of the root file system, which is memory: what was taken along may be in them
_MOUNTS = (
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
    ("tracefs", "/sys/kernel/tracing"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),  # noqa: S108 (the guest's)
)
_NEVER_KILLED = b"-1000"  # Documentation/filesystems/proc.rst: OOM_SCORE_ADJ_MIN
_MODULES = "/modules"
_OPEN_FILES = 65536
_INIT_MODULE = {"x86_64": 175, "aarch64": 105}
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
_POWER_OFF = 0x4321FEDC
_libc = ctypes.CDLL(None, use_errno=True)


def _mount() -> list[str]:
    failed = []
    for kind, where in _MOUNTS:
        try:
            os.makedirs(where, exist_ok=True)  # noqa: PTH103
        except OSError as error:  # sysfs has a place for what the kernel has, and lets none be made
            failed.append(f"mount {kind}: {os.strerror(error.errno or 0)}")
            continue
        if _libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None):
            failed.append(f"mount {kind}: {os.strerror(ctypes.get_errno())}")
    return failed


def _spared_for_memory() -> None:
    """The agent too, which tells what became of what was killed; commands are not."""
    with open("/proc/self/oom_score_adj", "wb") as file:  # noqa: PTH123
        file.write(_NEVER_KILLED)


def _load_modules() -> list[str]:
    failed = []
    number = _INIT_MODULE[os.uname().machine]
    for name in sorted(os.listdir(_MODULES)) if os.path.isdir(_MODULES) else ():  # noqa: PTH112, PTH208
        with open(f"{_MODULES}/{name}", "rb") as file:  # noqa: PTH123
            data = file.read()
        if _libc.syscall(number, data, len(data), b""):
            failed.append(f"load {name}: {os.strerror(ctypes.get_errno())}")
    return failed


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _console() -> None:
    """Whatever is printed goes to the kernel's console."""
    fd = os.open("/dev/console", os.O_RDWR | os.O_NOCTTY)
    for number in (0, 1, 2):
        os.dup2(fd, number)


def _agent(failed: list[str]) -> None:
    with open("/guest.json", encoding="utf-8") as file:  # noqa: PTH123
        told = json.load(file)
    sys.path[:] = [*told["path"], *sys.path]
    os.environ.update(
        HOME="/root",
        PATH="/usr/bin",
        LANG="C.UTF-8",
        TERM="linux",
        PYTHONDONTWRITEBYTECODE="1",
        PYTHONPATH=":".join(told["path"]),
    )
    os.chdir("/root")
    from testbed.guest.inside.agent import main

    main(failed)


def _run() -> None:
    failed = _mount()
    _spared_for_memory()
    _console()
    failed += _load_modules()
    _loopback_up()
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    agent = os.fork()
    if agent == 0:
        os.setsid()
        _agent(failed)
        return
    while os.wait()[0] != agent:  # orphans come here
        pass
    os.sync()
    _libc.reboot(_POWER_OFF)


_run()
