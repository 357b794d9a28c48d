"""What is put under pressure: objects, or the reference, loaded once with maps of the sizes asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.program_set import ProgramSet
from testbed.errors import MachineError, UsageError
from testbed.kmesh.profile import Profile, load_profile
from testbed.kmesh.reference import build_reference, load_reference
from testbed.kmesh.subject import Subject, load_subject
from testbed.scratch import scratch_folder


@dataclass(frozen=True)
class Pressed:
    """A loaded set and its profile. ``lines`` are words about people's objects: (heading, words)."""

    program_set: ProgramSet
    profile: Profile
    is_reference: bool
    lines: tuple[tuple[str, str], ...] = ()


@contextmanager
def load_pressed(paths: Sequence[Path], abi: str, options: LoadOptions) -> Iterator[Pressed]:
    """Loads objects, or without any the reference: by clang and libbpf, by bcc where there is no clang."""
    if not paths and abi:
        raise UsageError("use --abi", "it is about objects, and there are none")
    if not paths and shutil.which("clang") is None:
        if options.max_entries:
            raise MachineError(
                "set the sizes of maps", "bcc takes those of the sources", "apt-get install clang libbpf-dev"
            )
        with load_reference() as loaded:
            yield Pressed(loaded, load_profile("main"), True)
        return
    with ObjectLoader() as loader:
        if paths:
            with load_subject(loader, paths, abi, options) as subject:
                yield Pressed(subject.program_set, subject.profile, False, tuple(subject.lines()))
            return
        with _load_built(loader, options) as subject:
            yield Pressed(subject.program_set, subject.profile, True)


def _load_built(loader: ObjectLoader, options: LoadOptions) -> Subject:
    """The reference, compiled. Its files are gone when this returns."""
    with scratch_folder("objects") as folder:
        subject = load_subject(loader, build_reference(folder), "main", options)
        subject.program_set.debug_structs(subject.profile.records.structs)  # kept once they were read
    return subject
