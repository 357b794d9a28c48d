"""A kernel that is there, on this machine's disk, ready to be booted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    """``label`` is what a person calls it (``6.12``, or a path), ``release`` what ``uname -r`` says in it.

    ``image`` is what QEMU boots: an ELF vmlinux with a PVH entry, else the bzImage as it was.
    ``modules`` is its ``lib/modules/RELEASE``, with ``modules.dep``; None for a kernel that needs none.
    ``digest`` stands for the content of both.
    """

    label: str
    release: str
    image: Path
    modules: Path | None
    digest: str
