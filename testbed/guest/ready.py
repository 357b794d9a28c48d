"""From a kernel and a system to a guest that has been prepared: restored if it can be, else booted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from testbed.guest.accel import accelerator
from testbed.guest.guest import Guest
from testbed.guest.initramfs import archive_digest, base, joined, overlay
from testbed.guest.qemu import MEMORY_MIB, Machine
from testbed.guest.snapshot import Snapshot
from testbed.guest.system import System
from testbed.kernels.kernel import Kernel


@contextmanager
def machine_of(
    kernel: Kernel,
    system: System,
    start: str,
    *,
    files: Mapping[str, bytes] | None = None,
    memory: int = MEMORY_MIB,
) -> Iterator[tuple[Machine, str]]:
    """What such a guest is made of, while the block lasts, and what stands for its content.

    ``start`` is the module that its agent hands over to, ``files`` are put into it by absolute path.
    """
    archive = overlay(kernel, files)
    with joined([base(system), system.own_archive(), archive]) as initrd:
        machine = Machine(kernel.image, initrd, start, "", accelerator(kernel.image).name, memory)
        yield machine, archive_digest([kernel.digest, system.digest(), archive])


def ready_guest(
    kernel: Kernel,
    system: System,
    start: str,
    prepare: Callable[[Guest], None],
    *,
    purpose: str = "",
    memory: int = MEMORY_MIB,
) -> Guest:
    """A guest in which ``prepare`` has been done, now or before the snapshot that it is restored from.

    Of one kernel, ``start`` and ``purpose`` the last snapshot is kept. Errors as `Snapshot.restored`.
    """
    with machine_of(kernel, system, start, memory=memory) as (machine, content):
        return Snapshot.of(machine, kernel.digest + purpose, content).restored(machine, prepare)
