"""Programs of the testbed's own that are for libbpf alone: what watches besides the tap."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

from testbed.bpf.bcc_loader import SourceSet
from testbed.bpf.elf.kept import kept_objects
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.own_program import compiled_name
from testbed.bpf.program_set import ProgramSet
from testbed.data import data_dir
from testbed.errors import MachineError


def object_sources(name: str) -> SourceSet:
    """``bpf/NAME.c``, to be compiled by clang."""
    bpf = data_dir("bpf")
    return SourceSet(name, (bpf / f"{name}.c",), (bpf / "include",), (), ())


def can_load(sources: SourceSet) -> bool:
    """Whether there is clang, or an object that was compiled elsewhere, as in a guest."""
    return _compiled(sources).is_file() or shutil.which("clang") is not None


def load_object(sources: SourceSet, loader: ObjectLoader | None, options: LoadOptions) -> ProgramSet:
    """Compiles with clang, unless the object is there already, and loads it.

    Programs that the kernel does not take are in the set's ``failures``. `MachineError` without clang.
    """
    with ExitStack() as stack:
        path = _compiled(sources)
        if not path.is_file():
            if not can_load(sources):
                fix = "apt-get install clang: bcc cannot build this one"
                raise MachineError(f"compile {sources.name}.c", "there is no clang", fix)
            (path,) = kept_objects(sources.sources, sources.include, sources.defines, stack)
        return load_objects(loader or stack.enter_context(ObjectLoader()), [path], options)


def _compiled(sources: SourceSet) -> Path:
    return data_dir("objects") / compiled_name(sources.sources[0], sources)
