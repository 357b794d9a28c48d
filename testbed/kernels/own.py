"""Kernels of one's own: an image, a build tree, the one that runs here."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from testbed.errors import MachineError, UsageError
from testbed.kernels.cache import (
    Damaged,
    add_entry,
    cache_dir,
    file_digest,
    locked,
    remove_entry,
    used,
    verify_entry,
)
from testbed.kernels.image import open_image
from testbed.kernels.kernel import Kernel
from testbed.kernels.modules import module_files, write_dependencies

ROOM = "own"
_IMAGES = ("arch/x86/boot/bzImage", "arch/arm64/boot/Image", "arch/arm64/boot/Image.gz", "vmlinux")
_BUILT = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


def is_path(name: str) -> bool:
    """Whether a name is a path rather than a version: it has a slash, or there is such a file."""
    return "/" in name or (not name[:1].isdigit() and Path(name).exists())


def kernel_at(name: str, modules: Path | None) -> Kernel:
    """The kernel of an image or a build tree. `UsageError` when it is neither, or the modules are none."""
    path = Path(name).expanduser()
    if not path.exists():
        raise UsageError(f"use the kernel {name}", "there is no such file or directory")
    if path.is_dir():
        return _from_tree(path.resolve(), name, modules)
    return _own(path.resolve(), name, None if modules is None else _modules_dir(modules))


def host_kernel() -> Kernel:
    """The kernel that runs here. `MachineError` where its image or its modules are not on the disk."""
    release = platform.release()
    candidates = (Path(f"/boot/vmlinuz-{release}"), Path(f"/usr/lib/modules/{release}/vmlinuz"))
    image = next((path for path in candidates if path.is_file()), None)
    modules = Path("/lib/modules") / release
    if image is None:
        raise MachineError(
            "use the host's kernel",
            f"the image of {release} is not here (no {' and no '.join(map(str, candidates))})",
            "name a series (6.12) or an image; on the host itself, `testbed check` runs without a guest",
        )
    if not os.access(image, os.R_OK):
        raise MachineError("use the host's kernel", f"{image} is not for you to read", "run it with sudo")
    return _own(image, "host", modules if modules.is_dir() else None)


def _from_tree(tree: Path, label: str, modules: Path | None) -> Kernel:
    image = next((tree / each for each in _IMAGES if (tree / each).is_file()), None)
    if image is None:
        raise UsageError(
            f"use the kernel {label}",
            "it is a directory, but no built kernel is in it",
            f"build it (make), so that it has {_IMAGES[0]} or vmlinux",
        )
    if modules is not None:
        return _own(image, label, _modules_dir(modules))
    release = tree / "include" / "config" / "kernel.release"
    named = release.read_text(encoding="utf-8").strip() if release.is_file() else ""
    return _own(image, label, tree, named)


def _modules_dir(given: Path) -> Path:
    """The directory with the modules: the one given, or ``lib/modules/*`` in it (INSTALL_MOD_PATH)."""
    if not given.is_dir():
        raise UsageError(f"use the modules in {given}", "there is no such directory")
    installed = sorted(path for path in given.glob("lib/modules/*") if path.is_dir())
    if len(installed) > 1:
        names = ", ".join(path.name for path in installed)
        raise UsageError(f"use the modules in {given}", f"they are of several kernels: {names}", "name one")
    return (installed[0] if installed else given).resolve()


def _own(image: Path, label: str, modules: Path | None, release: str = "") -> Kernel:
    """The entry of an image and its modules: the vmlinux, and links to the modules with a modules.dep."""
    files = [] if modules is None else list(module_files(modules))
    if modules is not None and not files and release == "":
        raise UsageError(f"use the modules in {modules}", "there are none (*.ko, *.ko.xz …)")
    key = _key(image, modules, files)
    path = cache_dir(ROOM) / key
    with locked(key):
        if path.is_dir():
            try:
                verify_entry(path)
            except Damaged:
                remove_entry(path)
        add_entry(ROOM, key, lambda entry: _fill(entry, image, modules, files, release))
    used(path)
    found = next(each for each in (path / "lib" / "modules").iterdir())
    here = next(each for each in path.iterdir() if each.name in {"vmlinux", "bzImage", "Image"})
    return Kernel(label, found.name, here, found if files else None, key)


def _key(image: Path, modules: Path | None, files: Iterable[Path]) -> str:
    # The image by content. A thousand modules by name, size and time, as make itself tells what is new.
    digest = hashlib.sha256(f"own 1 {file_digest(image)} {modules}\n".encode())
    extra = [] if modules is None else [modules / name for name in _BUILT if (modules / name).is_file()]
    for path in (*files, *extra):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _fill(entry: Path, image: Path, modules: Path | None, files: Sequence[Path], release: str) -> None:
    opened = open_image(image)
    if release and opened.release and release != opened.release:
        raise UsageError(
            f"use the kernel {image}",
            f"it is {opened.release}, and the tree's configuration is of {release}",
            "build it again: make",
        )
    (entry / opened.name).write_bytes(opened.data)
    target = entry / "lib" / "modules" / (opened.release or release)
    target.mkdir(parents=True)
    if modules is None:
        return
    for file in files:
        inner = file.relative_to(modules)
        link = target / (
            inner if inner.parts[0] in {"kernel", "updates", "extra"} else Path("kernel") / inner
        )
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    for name in _BUILT:
        if (modules / name).is_file():
            (target / name).write_bytes((modules / name).read_bytes())
    write_dependencies(target)
