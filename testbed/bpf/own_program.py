"""Programs of the testbed's own, which need no particular loader."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from testbed.bpf.bcc_loader import SourceSet, load
from testbed.bpf.elf.kept import kept_objects
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.program_set import ProgramSet
from testbed.data import data_dir


def load_own(sources: SourceSet, loader: ObjectLoader | None = None) -> ProgramSet:
    """Compiles and loads: by clang and libbpf, which takes a quarter of the time; by bcc without clang.

    Where they are compiled already, as in a guest, those are loaded. ``loader`` is one that is there
    already. `ProgramError` when it does not compile or is rejected.
    """
    if (made := load_compiled(sources, loader)) is not None:
        return made
    if shutil.which("clang") is None:
        return load(sources)
    with ExitStack() as stack:
        objects = kept_objects(sources.sources, sources.include, sources.defines, stack)
        return _loaded(objects, loader)


def load_compiled(sources: SourceSet, loader: ObjectLoader | None = None) -> ProgramSet | None:
    """Loads the objects of the data directory ``objects``, where these sources' are in it; else None.

    `ProgramError` when the kernel rejects one.
    """
    compiled = [data_dir("objects") / compiled_name(source, sources) for source in sources.sources]
    return _loaded(compiled, loader) if all(path.is_file() for path in compiled) else None


def compiled_name(source: Path, sources: SourceSet) -> str:
    """What a source's object is called in the data directory ``objects``: ``tap-HAVE_NETNS_COOKIE.o``."""
    return f"{'-'.join((source.stem, *sources.defines))}.o"


def _loaded(objects: Sequence[Path], loader: ObjectLoader | None) -> ProgramSet:
    with ExitStack() as stack:
        made = load_objects(loader or stack.enter_context(ObjectLoader()), objects)
    for failure in made.failures:
        made.close()
        raise failure.error()
    return made
