"""What the kernel was built with, as far as everything depends on it."""

from __future__ import annotations

from pathlib import Path

from testbed.errors import MachineError, errno_name

BTF = Path("/sys/kernel/btf/vmlinux")


def kernel_btf(path: Path = BTF) -> int:
    """The size of the kernel's BTF in bytes. `MachineError` when there is none."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise MachineError(
            f"find the kernel's BTF ({path})",
            errno_name(error.errno or 0),
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y: the distributions' own have it",
        ) from error
