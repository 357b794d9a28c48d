"""The reference program set: the sources in ``bpf/``, loaded with bcc or built to ELF objects."""

from __future__ import annotations

from pathlib import Path

from testbed.bpf.bcc_loader import SourceSet, load
from testbed.bpf.elf.clang import compile_objects
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.own_program import load_compiled
from testbed.bpf.program_set import ProgramSet
from testbed.data import data_dir
from testbed.kmesh.config import Config
from testbed.kmesh.profile import load_profile


def reference_sources() -> SourceSet:
    """The sources as they are now: edit them, run again."""
    bpf = data_dir("bpf")
    main = load_profile("main")
    return SourceSet(
        name="reference",
        sources=(bpf / "sockops.c", bpf / "connect.c", bpf / "sendmsg.c"),
        include=(bpf / "include",),
        programs=(
            ("sockops_prog", ProgramKind.SOCKOPS),
            ("connect4_prog", ProgramKind.CONNECT4),
            ("connect6_prog", ProgramKind.CONNECT6),
            ("sendmsg_prog", ProgramKind.SK_MSG),
        ),
        maps=tuple(spec.name for spec in (*main.maps.values(), *main.optional_maps.values())),
        globals_map="globals",
    )


def build_reference(folder: Path) -> list[Path]:
    """Compiles the reference to ELF objects: sockops.o, connect.o and sendmsg.o in ``folder``.

    `ProgramError` when it does not compile, `UsageError` when they cannot be written.
    """
    reference = reference_sources()
    return compile_objects(reference.sources, reference.include, folder)


def load_reference(loader: ObjectLoader | None = None) -> ProgramSet:
    """Compiles and loads the reference, by bcc. `ProgramError` when it does not compile or is rejected.

    Where it is compiled already, as in a guest, that is loaded, by ``loader`` if there is one.
    """
    sources = reference_sources()
    if (made := load_compiled(sources, loader)) is not None:
        return made
    loaded = load(sources)
    Config(
        load_profile("main"), loaded.variables, None
    ).reset()  # bcc has no initialised variables: an object has these from the start
    return loaded
