"""Where kernel headers are. bcc needs some, of any version: it takes only UAPI types from them.

Debian splits them into ``linux-headers-V-common`` and ``linux-headers-V-ARCH``; Ubuntu and others
have one complete tree.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import MachineError

_RUNNING = Path("/lib/modules") / os.uname().release / "build"
_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}  # the kernel's names
_DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Headers:
    """``source`` is the tree that bcc is pointed at, ``flags`` the compiler flags that complete it."""

    source: Path
    flags: tuple[str, ...]


def _version_key(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path.name))


def _candidates(sources: Path) -> list[Path]:
    others = sorted(sources.glob("linux-headers-*"), key=_version_key, reverse=True)
    return [path.resolve() for path in (_RUNNING, *others) if path.is_dir()]


def _common_part(tree: Path) -> Path | None:
    """Debian's shared half of a tree: the same version, ``-common`` in the place of the flavour."""
    for common in tree.parent.glob("linux-headers-*-common"):
        if tree.name.startswith(common.name.removesuffix("common")) and tree != common:
            return common
    return None


def find_headers(sources: Path = Path("/usr/src")) -> Headers:
    """Finds headers: of the running kernel, else the newest. `MachineError` when there are none."""
    if (own := os.environ.get("BCC_KERNEL_SOURCE")) is not None:
        return Headers(Path(own), ())  # bcc's own way of being told; then it is the whole truth
    machine = platform.machine()
    arch = _ARCHITECTURES.get(machine, machine)
    for tree in _candidates(sources):
        generated = tree / "arch" / arch / "include" / "generated"
        if not generated.is_dir() or not (tree / "include/generated/uapi/linux/version.h").is_file():
            continue
        common = _common_part(tree)
        flags = (
            tree / "include",
            tree / "include/generated/uapi",
            generated,
            generated / "uapi",
        )
        return Headers(common or tree, tuple(f"-I{flag}" for flag in flags))
    raise MachineError(
        "find kernel headers for bcc",
        f"neither {_RUNNING} nor {sources}/linux-headers-* has them for {arch} (any version will do)",
        f"apt-get install {_headers_package(machine)}",
    )


def _headers_package(machine: str) -> str:
    if _is_ubuntu():
        return "linux-headers-generic"
    return f"linux-headers-{_DEBIAN_ARCHITECTURES.get(machine, machine)}"


def _is_ubuntu() -> bool:
    try:
        return platform.freedesktop_os_release().get("ID") == "ubuntu"
    except OSError:
        return False
