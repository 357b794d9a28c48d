"""Which shared libraries an ELF file needs at run time, found as the dynamic linker finds them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from testbed.errors import MachineError

_LDCONFIG = "/sbin/ldconfig"
_CACHED = re.compile(r"^\s*(\S+) \(([^)]*)\) => (\S+)$", re.MULTILINE)
_ARCHITECTURES = {"EM_X86_64": "x86-64", "EM_AARCH64": "AArch64"}  # as ldconfig says them


def closure(files: Iterable[Path]) -> dict[str, Path]:
    """The interpreter and libraries that the ELF files among ``files`` need, and what those need.

    By the path that the linker looks at, with the file that is there. A library that this machine
    does not have is left out: what needs it does not run here either.
    """
    found: dict[str, Path] = {}
    waiting = list(files)
    while waiting:
        for path in _needed(waiting.pop()):
            if str(path) not in found:
                found[str(path)] = path.resolve()
                waiting.append(path)
    return found


def library(name: str) -> Path | None:
    """The file of a library by its soname: ``libbpf.so.1``. None where this machine does not have it."""
    return next((path for (soname, _), path in _known().items() if soname == name), None)


def _needed(file: Path) -> Iterator[Path]:
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"\x7fELF":
                return
            stream.seek(0)
            elf = ELFFile(stream)
            architecture = _ARCHITECTURES.get(elf["e_machine"], "")
            names, directories = [], []
            for segment in elf.iter_segments("PT_INTERP"):
                assert isinstance(segment, InterpSegment), "it is of that type"
                yield Path(segment.get_interp_name())
            section = elf.get_section_by_name(".dynamic")
            if isinstance(section, DynamicSection):
                for tag in section.iter_tags():
                    if tag.entry.d_tag == "DT_NEEDED":
                        names.append(str(vars(tag)["needed"]))
                    elif tag.entry.d_tag == "DT_RUNPATH":
                        runpath = str(vars(tag)["runpath"])
                        directories += runpath.replace("$ORIGIN", str(file.parent)).split(":")
    except (OSError, ELFError):
        return  # no ELF file, or one that nothing here can load
    for name in names:
        beside = (Path(directory) / name for directory in directories)
        own = next((path for path in beside if path.is_file()), None)
        if (path := own or _known().get((name, architecture))) is not None:
            yield path


@cache
def _known() -> dict[tuple[str, str], Path]:
    """What ldconfig knows, by name and architecture; the first of each, as the linker takes it."""
    try:
        done = subprocess.run([_LDCONFIG, "-p"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MachineError("find shared libraries", f"{_LDCONFIG} -p failed: {error}") from error
    known: dict[tuple[str, str], Path] = {}
    for name, flags, path in _CACHED.findall(done.stdout):
        architecture = next((words for words in _ARCHITECTURES.values() if words in flags), "")
        known.setdefault((name, architecture), Path(path))
    return known
