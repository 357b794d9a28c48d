"""Programs of the testbed's own, which need no particular loader."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from testbed.bpf.bcc_loader import SourceSet, load
from testbed.bpf.elf.clang import compile_objects
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.program_set import ProgramSet


def load_own(sources: SourceSet, loader: ObjectLoader | None = None) -> ProgramSet:
    """Compiles and loads: by clang and libbpf, which takes a quarter of the time; by bcc without clang.

    ``loader`` is one that is there already. `ProgramError` when it does not compile or is rejected.
    """
    if shutil.which("clang") is None:
        return load(sources)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        objects = compile_objects(sources.sources, sources.include, folder, sources.defines)
        made = load_objects(loader or stack.enter_context(ObjectLoader()), objects)
    for failure in made.failures:
        made.close()
        raise failure.error()
    return made
