"""What a capsule has to be loaded into the kernel: written into a private directory, sources compiled.

Nothing else of a capsule ever becomes a file, and only what a person has said yes to gets here.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.acquired import acquired
from testbed.bpf.elf.clang import compile_objects
from testbed.bpf.elf.closed import need_closed
from testbed.capsule.contents import Capsule
from testbed.capsule.private import private_folder
from testbed.data import data_dir
from testbed.errors import UsageError
from testbed.kmesh.profile import PROFILES
from testbed.kmesh.reference import reference_sources
from testbed.report.shown import shown

_SOURCES_ABI = "main"


@dataclass(frozen=True)
class UnderTest:
    """What is tested: these objects, with this ABI; the reference in ``bpf/`` where there are none."""

    objects: tuple[Path, ...] = ()
    abi: str = ""


@dataclass(frozen=True)
class Instead:
    """What is tested in place of what a capsule carries: ``bpf/`` as it is here, or these objects."""

    here: bool = False
    objects: tuple[Path, ...] = ()

    def foreign(self, capsule: Capsule) -> tuple[str, ...]:
        """What of the capsule would be loaded into the kernel, and is not this testbed's own."""
        return () if self.here or self.objects else capsule.foreign()

    def words(self, capsule: Capsule) -> str:
        """What runs, for a person."""
        if self.objects:
            return f"{', '.join(shown(str(path)) for path in self.objects)}, not what the capsule carries"
        bpf = "bpf/ of this checkout" if data_dir("bpf").parent.name != "_data" else "the installed bpf/"
        if not capsule.foreign():
            return f"{bpf}, the same as the capsule's sources" if capsule.sources else bpf
        if self.here:
            return bpf
        return (
            "the capsule's own objects"
            if capsule.objects
            else f"the capsule's own sources, compiled by {_compiler()}"
        )


@contextmanager
def unpacked(capsule: Capsule, instead: Instead | None = None) -> Iterator[UnderTest]:
    """The capsule's objects as files that only this user can read, as long as the block lasts.

    Sources that are not this testbed's own are compiled: `ProgramError` where one does not compile,
    `UsageError` where one includes a file from elsewhere. Of ``instead`` nothing is written; objects
    are tested with the ABI that those of the capsule had.
    """
    chosen = instead or Instead()
    if not chosen.foreign(capsule) and not chosen.objects:
        yield UnderTest(abi="" if chosen.here and _is_about_objects(capsule) else _era(capsule))
        return
    if chosen.objects and not _is_about_objects(capsule):
        yield UnderTest(chosen.objects)
        return
    with private_folder() as root:
        if chosen.objects:
            yield UnderTest(chosen.objects, _abi(capsule, root))
            return
        objects = _written(capsule, root) if capsule.objects else _compiled(capsule, root)
        yield UnderTest(objects, _abi(capsule, root))


def _written(capsule: Capsule, root: Path) -> tuple[Path, ...]:
    for name, data in capsule.objects.items():
        (root / name).write_bytes(data)
        acquired("file", root / name)
    return tuple(root / name for name in capsule.objects)


def _compiled(capsule: Capsule, root: Path) -> tuple[Path, ...]:
    for name, data in capsule.sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    known = [path.name for path in reference_sources().sources]
    sources = [root / name for name in known if name in capsule.sources]
    if not sources:
        raise UsageError(
            f"compile the sources in {capsule.name}", f"none of {', '.join(known)} is among them"
        )
    for source in sources:
        need_closed(f"compile {source.name} of {capsule.name}", source, (root / "include",), root)
    return tuple(compile_objects(sources, (root / "include",), root / "objects"))


def _is_about_objects(capsule: Capsule) -> bool:
    """Whether its ABI is that of objects, and not of ``bpf/``."""
    return bool(capsule.objects) or "abi.yaml" in capsule.members


def _compiler() -> str:
    """``clang 14.0.6``; the name alone where nobody knows."""
    try:
        said = subprocess.run(["clang", "--version"], capture_output=True, check=False).stdout  # noqa: S607
    except OSError:
        return "clang"
    found = re.search(rb"version (\S+)", said)
    return f"clang {found[1].decode(errors='replace')}" if found else "clang"


def _abi(capsule: Capsule, root: Path) -> str:
    if "abi.yaml" in capsule.members:
        file = root / "abi.yaml"
        file.write_bytes(capsule.members["abi.yaml"])
        return str(file)
    return _era(capsule) or ("" if capsule.objects else _SOURCES_ABI)


def _era(capsule: Capsule) -> str:
    abi = capsule.scenario.abi
    if abi and (Path(abi).name != abi or not (PROFILES / f"{abi}.yaml").is_file()):
        raise UsageError(f"use the ABI of {capsule.name}", f"{abi!r} is a path, and no era")
    return abi
