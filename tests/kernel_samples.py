"""Small things of the shapes that kernels have: a vmlinux, a bzImage, a module, a signed archive."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PVH_NOTE = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x1000000)
_X86_64 = 62


def vmlinux(release: str, *, pvh: bool = True, machine: int = _X86_64) -> bytes:
    """An ELF file with a kernel's banner and, unless told otherwise, a PVH note."""
    note = _PVH_NOTE if pvh else b""
    content = note + f"Linux version {release} (someone@somewhere)\0".encode()
    start = 64 + 56
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    notes = struct.pack("<IIQQQQQQ", 4, 4, start, 0, 0, len(note), len(note), 4)
    return ident + header + notes + content


def bzimage(release: str, payload: bytes) -> bytes:
    """A bzImage: the setup header with what is read of it, and the payload after it."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<HII", setup, 0x206, 0x20F, 0, 0)
    struct.pack_into("<H", setup, 0x20E, 0x300 - 0x200)
    struct.pack_into("<II", setup, 0x248, 0, len(payload))
    name = f"{release} (someone@somewhere) #1".encode() + b"\0"
    setup[0x300 : 0x300 + len(name)] = name
    return bytes(setup) + payload


def module(*, depends: Sequence[str] = (), name: str = "") -> bytes:
    """A relocatable ELF whose one section of interest is .modinfo."""
    info = f"license=GPL\0depends={','.join(depends)}\0name={name}\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    content = info + names
    start = 64
    sections = start + len(content)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 1, _X86_64, 1, 0, 0, sections, 0, 64, 0, 0, 64, 3, 2)

    def section(name_at: int, kind: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name_at, kind, 0, 0, offset, size, 0, 0, 1, 0)

    table = bytes(64) + section(1, 1, start, len(info)) + section(10, 3, start + len(info), len(names))
    return ident + header + content + table


@dataclass(frozen=True)
class Archive:
    """A signed archive in a directory, with the keyring for it."""

    root: Path
    keyring: Path
    home: Path

    @property
    def address(self) -> str:
        return f"file:{self.root}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it, and a cache of its own."""
        return {
            "TESTBED_DEBIAN_ARCHIVE": self.address,
            "TESTBED_DEBIAN_KEYRING": str(self.keyring),
            "TESTBED_CACHE": str(self.home / "cache"),
            "HOME": str(self.home),
        }

    def in_release(self, suite: str) -> Path:
        return self.root / "dists" / suite / "InRelease"

    def publish(self, suite: str, packages: Sequence[Path]) -> None:
        """Makes the suite's lists of those packages, and signs them."""
        folder = self.root / "dists" / suite / "main" / "binary-amd64"
        folder.mkdir(parents=True, exist_ok=True)
        text = "\n".join(_stanza(self.root, package) for package in packages).encode()
        (folder / "Packages").write_bytes(text)
        (folder / "Packages.gz").write_bytes(gzip.compress(text))
        lines = [
            f" {hashlib.sha256((folder / name).read_bytes()).hexdigest()} {(folder / name).stat().st_size}"
            f" main/binary-amd64/{name}"
            for name in ("Packages", "Packages.gz")
        ]
        release = self.in_release(suite).with_name("Release")
        head = f"Origin: Debian\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n"
        date = "Date: Thu, 01 Jan 2026 00:00:00 UTC\n"
        release.write_text(f"{head}{date}SHA256:\n" + "\n".join(lines) + "\n", encoding="utf-8")
        _gpg(self.home, "--clearsign", "--yes", "-o", self.in_release(suite), release)
        release.unlink()


def make_archive(folder: Path) -> Archive:
    """An archive with a throwaway key, and nothing in it."""
    archive = Archive(folder / "archive", folder / "keyring.gpg", folder)
    (archive.root / "pool").mkdir(parents=True)
    key = ("--quick-generate-key", "Nobody <nobody@invalid>", "ed25519", "sign", "never")
    _gpg(folder, "--passphrase", "", *key)
    _gpg(folder, "--export", "-o", archive.keyring)
    return archive


def make_package(
    archive: Archive, name: str, version: str, files: Mapping[str, bytes], depends: str = ""
) -> Path:
    """A .deb in the archive's pool."""
    tree = archive.home / "trees" / name
    for inner, content in files.items():
        path = tree / inner
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    control = tree / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    words = (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody\nDescription: none\n"
    )
    control.write_text(words + (f"Depends: {depends}\n" if depends else ""), encoding="utf-8")
    path = archive.root / "pool" / f"{name}_{version}_amd64.deb"
    _run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(path))
    return path


def cloud_kernel(
    archive: Archive, release: str, version: str, edit: Callable[[bytes], bytes] = bytes
) -> Path:
    """The package of a cloud kernel with two modules, one built on the other."""
    modules = f"lib/modules/{release}"
    files = {
        f"boot/vmlinuz-{release}": edit(bzimage(release, gzip.compress(vmlinux(release)))),
        f"boot/config-{release}": b"CONFIG_BPF=y\n",
        f"{modules}/modules.builtin": b"kernel/net/ipv6/ipv6.ko\n",
        f"{modules}/kernel/net/low.ko": module(name="low"),
        f"{modules}/kernel/net/high-one.ko": module(depends=["low"], name="high_one"),
    }
    return make_package(archive, f"linux-image-{release}", version, files)


def split_kernel(archive: Archive, release: str, version: str) -> list[Path]:
    """As Debian splits it since 6.19: an image without content, and what it depends on."""
    parts = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")]
    where = f"usr/lib/modules/{release}"
    files = (
        {f"{where}/modules.builtin": b"kernel/ipv6.ko\n", f"{where}/config": b"CONFIG_BPF=y\n"},
        {f"{where}/vmlinuz": bzimage(release, b"\x89LZO")},
        {f"{where}/kernel/low.ko": module(name="low")},
    )
    depends = ", ".join(("kmod", *(f"{part} (= {version})" for part in parts)))
    image = make_package(archive, f"linux-image-{release}", version, {}, depends)
    return [image, *(make_package(archive, *row) for row in zip(parts, [version] * 3, files, strict=True))]


def _stanza(root: Path, package: Path) -> str:
    control = _run("dpkg-deb", "--field", str(package))
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    where = f"Filename: {package.relative_to(root)}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
    return control.rstrip() + "\n" + where


def _gpg(home: Path, *words: str | Path) -> None:
    gnupg = home / "gnupg"
    gnupg.mkdir(mode=0o700, exist_ok=True)
    _run("gpg", "--homedir", str(gnupg), "--batch", "--quiet", "--no-tty", *map(str, words))


def _run(*words: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout
