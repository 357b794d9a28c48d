"""What mutants are made of: C sources, or compiled objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from testbed.bpf.elf.file import read_object
from testbed.bpf.elf.loader import ObjectLoader
from testbed.errors import UsageError
from testbed.kmesh.recognise import recognise
from testbed.kmesh.reference import reference_sources
from testbed.mutants.build import Builder
from testbed.mutants.bytecode import bytecode_mutants
from testbed.mutants.generate import generated
from testbed.mutants.model import Built, Mutant
from testbed.mutants.picked import Argument, argued, arguments, hand_picked
from testbed.mutants.runs import file_in_memory
from testbed.mutants.sources import Sources, read_sources

Objects = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Subject:
    """``mutants`` in their order; ``argued`` has the reasons, by id, why one is equivalent.

    ``notes`` are worth a line to a person. ``prepare`` compiles what is unchanged.
    """

    mutants: tuple[Mutant, ...]
    argued: Mapping[str, str]
    notes: tuple[str, ...]
    prepare: Callable[[], Prepared]


@dataclass(frozen=True)
class Prepared:
    """The unchanged objects, the digest of their code, and what builds mutants: (them, at once, step)."""

    objects: Objects
    digest: str
    build_all: Callable[[Sequence[Mutant], int, Callable[[], None]], Iterator[Built]]


def of_sources(folder: Path | None) -> Subject:
    """The reference's sources, or those in a folder: the same programs there, else every ``.c`` file."""
    reference = reference_sources()
    root = reference.sources[0].parent if folder is None else folder.resolve()
    if not root.is_dir():
        raise UsageError(f"read the sources in {folder}", "there is no such directory")
    programs = [root / path.name for path in reference.sources if (root / path.name).is_file()]
    programs = programs or sorted(root.glob("*.c"))
    if not programs:
        raise UsageError(f"read the sources in {folder}", "there is no .c file")
    sources = read_sources(root, programs)
    picked, unfit = hand_picked(sources)
    mutants = (*picked, *generated(sources))
    reasons, idle = argued(arguments(), mutants)
    return Subject(mutants, reasons, tuple(_notes(unfit, idle)), lambda: _compiled(sources))


def _notes(unfit: Sequence[str], idle: Sequence[Argument]) -> Iterator[str]:
    if unfit:
        yield f"picked by hand for other sources, left out: {', '.join(unfit)}"
    for argument in idle:
        change = f"{argument.file}: {argument.old} → {argument.new}"
        yield f"argued to be equivalent, and no mutant any more: {change}"


def _compiled(sources: Sources) -> Prepared:
    builder = Builder(sources)
    return Prepared(builder.reference, builder.digest, builder.build_all)


def of_objects(paths: Sequence[Path]) -> Subject:
    """Compiled objects: mutants of their instructions."""
    files = [read_object(path) for path in paths]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise UsageError("tell the objects apart", f"two of {', '.join(names)} have one name")
    objects = tuple((file.path.name, file.data) for file in files)
    sets: dict[str, Objects] = {}
    mutants = []
    for number, file in enumerate(files):
        for mutant, data in bytecode_mutants(file):
            mutants.append(mutant)
            sets[mutant.id] = (*objects[:number], (objects[number][0], data), *objects[number + 1 :])

    def build_all(some: Sequence[Mutant], _at_once: int, step: Callable[[], None]) -> Iterator[Built]:
        for mutant in some:
            step()
            yield Built(mutant, sets[mutant.id], _digest(sets[mutant.id]))

    return Subject(tuple(mutants), {}, (), lambda: Prepared(objects, _digest(objects), build_all))


def _digest(objects: Objects) -> str:
    return sha256(b"".join(data for _, data in objects)).hexdigest()


def era_of(objects: Objects) -> str:
    """The era whose interface the unchanged set has; a mutant is held to that, whatever it looks like."""
    with ObjectLoader() as loader:
        paths = [Path(file_in_memory(name, data)) for name, data in objects]
        return recognise(loader.open(paths)).profile.era
