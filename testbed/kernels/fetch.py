"""Fetches a kernel of the archive into the cache."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from testbed.errors import MachineError, command
from testbed.kernels import apt
from testbed.kernels.archive import machine
from testbed.kernels.cache import (
    WRITING,
    Damaged,
    add_entry,
    file_digest,
    locked,
    remove_entry,
    side_dir,
    used,
    verify_entry,
)
from testbed.kernels.image import read_image
from testbed.kernels.index import ARCHITECTURES, ROOM, Offer, Package
from testbed.kernels.kernel import Kernel
from testbed.kernels.modules import write_dependencies
from testbed.kernels.progress import Progress

_IMAGES = ("vmlinux", "bzImage", "Image")
# Of a plain kernel's hundreds of MB, what a guest of the testbed can use. Cloud kernels are kept whole:
# their modules take 20 to 90 MB.
_OF_PLAIN = (
    "net",
    "lib",
    "crypto",
    "arch",
    "drivers/net",
    "drivers/block",
    "drivers/virtio",
    "fs/9p",
    "fs/fuse",
)
_NOT_OF_PLAIN = (
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/net/usb",
    "drivers/net/can",
    "drivers/net/wwan",
)


def fetch(offer: Offer, label: str, progress: Progress, *, wholly: bool = False) -> Kernel:
    """The kernel, from the cache where it is there and undamaged (``wholly``: by content), else fetched."""
    path = offer.entry
    if path.is_dir() and _damage(path, wholly) is None:
        return _kernel(offer, label, path)
    with locked(WRITING, shared=True), locked(path.name):
        damage = _damage(path, wholly) if path.is_dir() else None
        if path.is_dir() and damage is None:
            return _kernel(offer, label, path)  # another process was faster
        if damage is not None:
            progress.say(f"{damage.path} {damage.why}: fetching {offer.release} again")
        try:
            debs = [_download(package, progress) for package in offer.packages]
        except MachineError as error:
            raise error if damage is None else _damaged(offer, damage, error) from error
        if damage is not None:
            remove_entry(path)
        add_entry(ROOM, path.name, lambda entry: _fill(entry, offer, debs))
        for deb in debs:
            deb.unlink(missing_ok=True)
    return _kernel(offer, label, path)


def _damage(path: Path, wholly: bool) -> Damaged | None:
    try:
        verify_entry(path, wholly=wholly)
    except Damaged as error:
        return error
    return None


def _damaged(offer: Offer, damage: Damaged, error: MachineError) -> MachineError:
    return type(error)(
        f"use {offer.release} from the cache",
        f"{damage.path} {damage.why}, and it cannot be fetched again: {error.why}",
        f"{error.fix}; then {command(f'kernels fetch {offer.version}')}",
        error.details,
    )


def _kernel(offer: Offer, label: str, path: Path) -> Kernel:
    used(path)
    image = next(path / name for name in _IMAGES if (path / name).is_file())
    return Kernel(label, offer.release, image, path / "lib" / "modules" / offer.release, path.name)


def _download(package: Package, progress: Progress) -> Path:
    """The .deb, its digest checked; what an earlier run began is resumed."""
    path = side_dir("partial") / f"{package.sha256}.deb"
    if path.is_file() and path.stat().st_size == package.size and file_digest(path) == package.sha256:
        return path
    config = apt.write_config(ARCHITECTURES[machine()][0], ())
    words: list[str | Path] = [apt.HELPER, "download-file", package.url, path, f"SHA256:{package.sha256}"]
    run = apt.run_apt(words, config, progress, package.name, package.size)
    what = f"fetch {package.name}"
    if run.code or not path.is_file():
        raise apt.explain(what, run, package.url.partition("/pool/")[0])
    if file_digest(path) != package.sha256:
        path.unlink()
        raise MachineError(what, f"what came from {package.url} is not what the signed lists say")
    progress.step(package.name, package.size, package.size)
    return path


def _fill(entry: Path, offer: Offer, debs: Sequence[Path]) -> None:
    modules = entry / "lib" / "modules" / offer.release
    modules.mkdir(parents=True)
    for deb in debs:
        _unpack(deb, offer, entry, modules)
    packed = entry / "vmlinuz"
    if not packed.is_file():
        raise MachineError(f"unpack {offer.release}", "its packages hold no vmlinuz")
    image = read_image(packed.read_bytes(), f"the vmlinuz of {offer.release}")
    packed.unlink()
    (entry / image.name).write_bytes(image.data)
    write_dependencies(modules)


def _unpack(deb: Path, offer: Offer, entry: Path, modules: Path) -> None:
    words = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for member in tar:
                    target = _target(PurePosixPath(member.name), offer.release, entry, modules)
                    content = tar.extractfile(member) if member.isreg() and target is not None else None
                    if content is not None and target is not None:
                        _copy(content, target)
        except tarfile.TarError as error:
            raise MachineError(f"unpack {deb.name}", str(error)) from error
        finally:
            process.stdout.close()
        words_of_it = process.stderr.read().decode("utf-8", "replace").strip()
    if process.returncode:
        raise MachineError(f"unpack {deb.name}", words_of_it or f"dpkg-deb ended by {process.returncode}")


def _copy(content: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def _target(name: PurePosixPath, release: str, entry: Path, modules: Path) -> Path | None:
    """Where a package's file goes, None for one that is not kept. No name leads out of the entry."""
    parts = [part for part in name.parts if part not in {"/", "."}]
    if ".." in parts:
        return None
    if parts[:1] == ["usr"]:
        parts = parts[1:]
    if parts in (["boot", f"vmlinuz-{release}"], ["lib", "modules", release, "vmlinuz"]):
        return entry / "vmlinuz"
    if parts in (["boot", f"config-{release}"], ["lib", "modules", release, "config"]):
        return entry / "config"
    if parts[:3] != ["lib", "modules", release] or parts[3:] == ["System.map"]:
        return None
    inner = "/".join(parts[4:])
    if parts[3:4] == ["kernel"] and "cloud" not in release and not _is_kept(inner):
        return None
    return modules.joinpath(*parts[3:])


def _is_kept(inner: str) -> bool:
    def under(folders: Sequence[str]) -> bool:
        return any(inner.startswith(f"{folder}/") for folder in folders)

    return under(_OF_PLAIN) and not under(_NOT_OF_PLAIN)
