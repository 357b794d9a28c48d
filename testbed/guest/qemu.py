"""QEMU: which one there is, and the words that start it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from testbed.errors import MachineError

MEMORY_MIB = 1024
_BINARIES = {"x86_64": "qemu-system-x86_64"}
_PACKAGES = {"x86_64": "qemu-system-x86"}
_CPU = {
    # under emulation every feature costs: none but those of 64 bits, and the random numbers that boot awaits
    "tcg": "qemu64,+rdrand",
    "kvm": "host",
}
_TCG_BUFFER_MIB = 512
_CMDLINE = (
    "console=ttyS0 quiet panic=-1 rdinit=/init "
    # a guest is ours alone, for seconds: what protects it from others costs emulation most
    "mitigations=off nokaslr no5lvl audit=0 apparmor=0 rodata=off init_on_alloc=0 init_on_free=0 "
    "hardened_usercopy=off randomize_kstack_offset=off page_alloc.shuffle=0 "
    # a cgroup has fewer files, and a namespace's end shorter tables to walk
    "psi=0 tcpmhash_entries=64 thash_entries=512 uhash_entries=256 "
    # nothing is waited for that is not there
    "rcupdate.rcu_expedited=1 raid=noautodetect i8042.noaux i8042.nokbd nomodeset "
    "tsc=reliable no_timer_check clocksource=tsc random.trust_cpu=on cryptomgr.notests "
)


@dataclass(frozen=True)
class Machine:
    """What a guest is made of: the kernel's image, the initramfs, what its agent starts, and how it runs.

    ``accelerator`` is ``kvm`` or ``tcg``, ``memory`` in MiB. ``ram`` is the file that is its memory: shared
    while a snapshot is made (``shared``), else a private copy of what is in it; None for ordinary memory.
    """

    image: Path
    initrd: Path
    start: str
    nonce: str
    accelerator: str
    memory: int = MEMORY_MIB
    ram: Path | None = None
    shared: bool = False


@cache
def qemu() -> str:
    """QEMU's program for this machine's architecture. `MachineError` where there is none."""
    machine = platform.machine()
    if machine not in _BINARIES:
        raise MachineError(
            "start a guest", f"guests are made for {', '.join(_BINARIES)}, and this machine is {machine}"
        )
    found = shutil.which(_BINARIES[machine])
    if found is None:
        raise MachineError(
            f"find {_BINARIES[machine]}", "QEMU is not installed", f"apt-get install {_PACKAGES[machine]}"
        )
    return found


_GUARD = '[ "$PPID" = "$0" ] && exec "$@"'


@cache
def qemu_version() -> str:
    """The first line of ``--version``. `MachineError` when QEMU does not start."""
    try:
        done = subprocess.run([qemu(), "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MachineError("start QEMU", str(error), "reinstall it") from error
    return done.stdout.splitlines()[0]


def dying_with_us(words: list[str]) -> list[str]:
    """The same command, killed by the kernel when this process (the thread that starts it) ends."""
    # setpriv asks for the signal; the shell looks whether we were gone before that
    return ["setpriv", "--pdeathsig", "KILL", "sh", "-c", _GUARD, str(os.getpid()), *words]


def guest_command(machine: Machine, console: int, port: int, monitor: int) -> list[str]:
    """QEMU's words; the numbers are those of inherited sockets: console, agent's port, QMP."""
    words = [qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-smp", "1"]
    options = "q35,smm=off,vmport=off,sata=off,usb=off,hpet=off"
    if machine.accelerator == "kvm":
        words += ["-accel", "kvm"]
    else:
        words += ["-accel", f"tcg,tb-size={_TCG_BUFFER_MIB}"]
    words += ["-cpu", _CPU[machine.accelerator], "-m", str(machine.memory)]
    if machine.ram is not None:
        share = "on" if machine.shared else "off"
        path = str(machine.ram).replace(",", ",,")
        words += [
            "-object",
            f"memory-backend-file,id=ram,size={machine.memory}M,mem-path={path},share={share}",
        ]
        options += ",memory-backend=ram"
    words += ["-machine", options]
    for name, fd in (("console", console), ("port", port), ("monitor", monitor)):
        words += ["-chardev", f"socket,id={name},fd={fd}"]
    words += ["-serial", "chardev:console", "-serial", "chardev:port", "-mon", "chardev=monitor,mode=control"]
    started = f"testbed.start={machine.start} testbed.nonce={machine.nonce}"
    return [
        *words,
        *("-kernel", str(machine.image), "-initrd", str(machine.initrd), "-append", _CMDLINE + started),
    ]
