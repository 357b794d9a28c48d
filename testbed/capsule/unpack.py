"""What a capsule has to be loaded into the kernel: written into a private directory, sources compiled.

Nothing else of a capsule ever becomes a file, and only what a person has said yes to gets here.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from testbed.bpf.elf.clang import compile_objects
from testbed.capsule.contents import Capsule
from testbed.errors import UsageError
from testbed.kmesh.reference import reference_sources
from testbed.runs.folder import folder_lock, is_running, runs_dir, state_error

_INCLUDE = re.compile(rb"""^\s*#\s*(?:include(?:_next)?|import)\s*[<"]\s*([^">]*)""", re.MULTILINE)
_SOURCES_ABI = "main"


@dataclass(frozen=True)
class UnderTest:
    """What is tested: these objects, with this ABI; the reference in ``bpf/`` where there are none."""

    objects: tuple[Path, ...] = ()
    abi: str = ""


@contextmanager
def unpacked(capsule: Capsule) -> Iterator[UnderTest]:
    """The capsule's objects as files that only this user can read, as long as the block lasts.

    Sources that are not this testbed's own are compiled: `ProgramError` where one does not compile,
    `UsageError` where one includes a file from elsewhere.
    """
    if not capsule.foreign():
        yield UnderTest(abi=capsule.scenario.abi)
        return
    with _private_folder() as root:
        objects = _written(capsule, root) if capsule.objects else _compiled(capsule, root)
        yield UnderTest(objects, _abi(capsule, root))


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A directory that only this user can read, until the block or this process ends."""
    place = runs_dir().with_name("unpacked")
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with folder_lock(place):  # what is being made is not removed before it is locked
            reap_unpacked()
            folder = Path(mkdtemp(dir=place))
            owner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(owner, fcntl.LOCK_EX)
    except OSError as error:
        raise state_error(f"unpack a capsule into {place}", error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner)


def reap_unpacked() -> list[Path]:
    """Removes what replays that were killed have left; those that run keep theirs. Returns what is gone."""
    left = [each for each in runs_dir().with_name("unpacked").glob("*") if not is_running(each)]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return left


def _written(capsule: Capsule, root: Path) -> tuple[Path, ...]:
    for name, data in capsule.objects.items():
        (root / name).write_bytes(data)
    return tuple(root / name for name in capsule.objects)


def _compiled(capsule: Capsule, root: Path) -> tuple[Path, ...]:
    for name, data in capsule.sources.items():
        for match in _INCLUDE.finditer(data):
            path = match[1].decode(errors="replace")
            if path.startswith("/") or ".." in path.split("/"):
                raise UsageError(
                    f"compile {name} of {capsule.name}", f"it includes {path!r}, a file elsewhere"
                )
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    known = [path.name for path in reference_sources().sources]
    sources = [root / name for name in known if name in capsule.sources]
    if not sources:
        raise UsageError(
            f"compile the sources in {capsule.name}", f"none of {', '.join(known)} is among them"
        )
    return tuple(compile_objects(sources, (root / "include",), root / "objects"))


def _abi(capsule: Capsule, root: Path) -> str:
    if "abi.yaml" in capsule.members:
        file = root / "abi.yaml"
        file.write_bytes(capsule.members["abi.yaml"])
        return str(file)
    if Path(capsule.scenario.abi).name != capsule.scenario.abi:
        raise UsageError(f"use the ABI of {capsule.name}", f"{capsule.scenario.abi!r} is a path, and no era")
    return capsule.scenario.abi or ("" if capsule.objects else _SOURCES_ABI)
