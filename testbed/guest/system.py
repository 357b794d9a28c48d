"""What is in every guest: this Python with its library, this testbed and what it needs, a few tools.

Everything lies where it lies on this machine, so that messages name the same places. Modules are
there in compiled form alone; the testbed's own also as source, which tracebacks quote.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Protocol

import testbed
from testbed.data import data_dir
from testbed.errors import MachineError
from testbed.guest.bytecode import compiled
from testbed.guest.cpio import Archive
from testbed.guest.libraries import closure, library

INIT = "/init"
_PACKAGE = Path(testbed.__file__).resolve().parent
_NOT_IN_GUESTS = {
    *("test", "tests", "idlelib", "lib2to3", "ensurepip", "distutils", "tkinter", "turtledemo", "pydoc_data"),
    *("site-packages", "dist-packages", "__pycache__", "docs", "_data", "contrib"),
}
_OF_NO_USE = {".pyi", ".pyx", ".pxd", ".c", ".h", ".pyc", ".a", ".o"}
_NOT_TAKEN = {"lz4", "zstandard", "qemu.qmp", "jinja2", "markupsafe"}
"""Packages that open kernels, start guests and draw tables: a third of all, of no use in a guest."""
_TOOLS = ("bash", "dash", "busybox", "ip", "ss", "tc", "nstat", "bpftool", "tcpdump", "strace")
_LIBRARIES = ("libbpf.so.1",)
_REQUIREMENT = re.compile(r"^([\w.-]+)[^;]*(;.*)?$")
_BINARIES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WANTED = (Path("/usr/include/bpf/bpf_helper_defs.h"),)  # the names of helpers
_LINKER_CACHE = Path("/etc/ld.so.cache")
_ACCOUNTS = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "/etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "/etc/profile": b'PS1="[$(uname -r)] \\w # "\n',
    "/etc/hosts": b"127.0.0.1 localhost\n::1 localhost\n",
}
_SCRIPTS = ("testbed", "pytest")
_SCRIPT = b"""#!%s
import runpy
runpy.run_module("%s", run_name="__main__", alter_sys=True)
"""
_EMPTY = ("/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/var/tmp")  # noqa: S108 (the guest's)


@dataclass(frozen=True)
class System:
    """By path in the guest: the files of this machine that guests have, those of the testbed itself, and
    bytes that are made for them.
    """

    files: Mapping[str, Path]
    own: Mapping[str, Path]
    made: Mapping[str, bytes]

    def digest(self) -> str:
        """Stands for the content: that of what is made; of files their path, size and time of change."""
        state = hashlib.sha256(self.base_digest().encode())
        _add_files(state, self.own)
        for path, data in sorted(self.made.items()):
            state.update(path.encode() + b"\0" + hashlib.sha256(data).digest())
        return state.hexdigest()

    def base_digest(self) -> str:
        """Stands for the content of `base_archive`."""
        state = hashlib.sha256(sys.version.encode())
        if _LINKER_CACHE.exists():  # the libraries are found by it, when the archive is written
            state.update(str(_LINKER_CACHE.stat().st_mtime_ns).encode())
        _add_files(state, self.files)
        return state.hexdigest()

    def base_archive(self) -> Archive:
        """All that seldom changes. `MachineError` when a module cannot be compiled."""
        made = Archive()
        for path in _EMPTY:
            made.directory(path)
        for name, file in closure(self.files.values()).items():
            made.file(name, file, 0o755)
        for name, file in self.files.items():
            if file.suffix == ".py":
                made.file(f"{name}c", compiled(file))
            else:
                made.file(name, file, file.stat().st_mode & 0o777)
        for name, target in _links(self.files).items():
            made.link(name, target)
        return made

    def own_archive(self) -> bytes:
        """The testbed itself, to be unpacked after the base: quick to write, as it changes all the time."""
        made = Archive()
        for name, data in self.made.items():
            made.file(name, data, 0o755 if data.startswith(b"#!") else 0o644)
        for name, file in self.own.items():
            made.file(name, file, file.stat().st_mode & 0o777)
            if file.suffix == ".py":
                made.file(f"{name.removesuffix(file.name)}{_cache_name(file)}", compiled(file))
        buffer = io.BytesIO()
        made.write(buffer)
        return buffer.getvalue()


def find_system(objects: Mapping[str, bytes]) -> System:
    """What guests are to have. ``objects`` are the testbed's own programs, compiled, by file name."""
    python = Path(sys.executable).resolve()
    library_path = Path(sysconfig.get_path("stdlib"))
    files: dict[str, Path] = {str(python): python}
    for root in {library_path, Path(sysconfig.get_path("platstdlib"))}:
        files |= {str(file): file for file in _tree(root)}
    for file in _packages("sockops-testbed"):
        if not file.is_relative_to(_PACKAGE):
            files.setdefault(str(file), file)
    files |= _tools()
    own = {str(file): file for file in _tree(_PACKAGE)}
    for name in ("bpf", "topologies"):
        own |= {str(file): file for file in _tree(data_dir(name), keep_all=True)}
    missing = [name for name in _LIBRARIES if library(name) is None]
    if missing:
        raise MachineError(
            "make a guest's file system", f"{', '.join(missing)} is not there", "apt-get install libbpf1"
        )
    files |= {str(file): file for file in _WANTED if file.is_file()}
    files |= {str(path): path.resolve() for name in _LIBRARIES if (path := library(name))}
    inside = (Path(__file__).parent / "inside" / "init.py").read_bytes()
    made = {INIT: b"#!%s -ISu\n%b" % (str(python).encode(), inside), **_ACCOUNTS}
    made["/guest.json"] = json.dumps({"path": _search_path(), "package": str(_PACKAGE)}).encode()
    made |= {f"/usr/bin/{name}": _SCRIPT % (str(python).encode(), name.encode()) for name in _SCRIPTS}
    made |= {str(_PACKAGE / "_data" / "objects" / name): data for name, data in objects.items()}
    return System(files, own, made)


def _add_files(state: Digest, files: Mapping[str, Path]) -> None:
    for path, file in sorted(files.items()):
        status = file.stat()
        state.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_mode}\n".encode())


class Digest(Protocol):
    """A hash that takes more."""

    def update(self, data: bytes, /) -> None:
        """Takes in more."""


def _cache_name(source: Path) -> str:
    return "/".join(Path(importlib.util.cache_from_source(source.name)).parts)


def _search_path() -> list[str]:
    """Where the guest's Python looks: as this one, without what is not taken along."""
    others = [path for path in sys.path if path and "dist-packages" not in path and Path(path).is_dir()]
    return list(dict.fromkeys([str(_PACKAGE.parent), *others]))


def _tree(root: Path, keep_all: bool = False) -> Iterator[Path]:
    for file in sorted(root.iterdir()):
        if file.is_dir():
            if file.name not in _NOT_IN_GUESTS and not file.name.startswith("config-"):
                yield from _tree(file, keep_all)
        elif keep_all or file.suffix not in _OF_NO_USE:
            yield file


def _packages(name: str) -> Iterator[Path]:
    """The files of a distribution's requirements, and of theirs."""
    seen = set(_NOT_TAKEN)
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current.lower() in seen:
            continue
        seen.add(current.lower())
        try:
            found = distribution(current)
        except PackageNotFoundError:
            continue  # of another platform, as its marker says, or the guest will say what is missing
        waiting += _required(found)
        for entry in found.files or ():
            if (
                _NOT_IN_GUESTS.isdisjoint(entry.parts)
                and entry.suffix not in _OF_NO_USE
                and ".." not in entry.parts
            ):
                file = Path(str(entry.locate()))
                if file.is_file():
                    yield file


def _required(found: Distribution) -> Sequence[str]:
    matches = (_REQUIREMENT.match(text.replace("[", " [")) for text in found.requires or ())
    return [match[1] for match in matches if match and "extra" not in (match[2] or "")]


def _tools() -> dict[str, Path]:
    """Those of the tools that this machine has."""
    found = {name: shutil.which(name, path=_BINARIES) for name in _TOOLS}
    return {f"/usr/bin/{name}": Path(path).resolve() for name, path in found.items() if path}


def _links(files: Mapping[str, Path]) -> dict[str, str]:
    """Links between directories, and to busybox for what is not there by a tool of its own."""
    links = {"/bin": "usr/bin", "/sbin": "usr/bin", "/usr/sbin": "bin"}
    links["/usr/bin/python3"] = str(Path(sys.executable).resolve())
    # busybox's own shell would take its applets before the tools of the same names
    links["/usr/bin/sh"] = next((name for name in ("dash", "bash") if f"/usr/bin/{name}" in files), "busybox")
    if (busybox := files.get("/usr/bin/busybox")) is None:
        return links
    done = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True)
    for name in done.stdout.split():
        links.setdefault(f"/usr/bin/{name}", "busybox")
    return {path: target for path, target in links.items() if path not in files}
