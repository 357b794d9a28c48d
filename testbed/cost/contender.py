"""Who is compared: sets of objects, each loaded once and looked at, ready to be attached to a lab."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from testbed.bpf.elf.file import read_object
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.program_sets import load_objects, named_programs
from testbed.bpf.kinds import ProgramKind, Target
from testbed.bpf.libbpf import program_size
from testbed.bpf.program_set import ProgramFailure, ProgramSet
from testbed.cost.counters import locked_memory
from testbed.errors import ProgramError, UsageError
from testbed.kmesh.profile import Profile, load_profile
from testbed.kmesh.recognise import recognise
from testbed.kmesh.reference import build_reference, load_reference
from testbed.kmesh.subject import load_subject
from testbed.scratch import scratch_folder

MOST = 6
_STATISTICS = 4  # BPF_LOG_STATS
_FIGURES = re.compile(r"^(verification time|stack depth) (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Spec:
    """One set to measure, as it was asked for: its letter, its files (none: the reference)."""

    letter: str
    text: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Size:
    """What a loaded program is made of. 0 where the kernel does not say.

    ``verified`` are instructions that the verifier walked through (Linux 5.16), ``machine_code`` is in
    bytes, ``stack`` in bytes too, ``verification_us`` how long the verifier took, once.
    """

    verified: int
    instructions: int
    machine_code: int
    stack: int = 0
    verification_us: int = 0


@dataclass(frozen=True)
class Contender:
    """A loaded set. ``profile`` is None for programs that are no contract's.

    ``keys`` are the names of its programs by what they are compared by: the section, with the program's
    name where a set has several of that kind. ``notes`` are for people: (heading, words).
    """

    spec: Spec
    program_set: ProgramSet
    profile: Profile | None
    keys: Mapping[str, str]
    sizes: Mapping[str, Size]
    load_ms: float
    map_bytes: int
    notes: tuple[tuple[str, str], ...] = field(default=())

    @property
    def letter(self) -> str:
        return self.spec.letter

    def sockops(self) -> list[str]:
        """The keys of its sockops programs."""
        section = ProgramKind.SOCKOPS.section
        return [key for key in self.keys if key == section or key.startswith(f"{section} ")]


def parse_contenders(texts: Sequence[str]) -> list[Spec]:
    """What each ``--object`` names: a file, several with commas between, or a directory of objects.

    `UsageError` for what is not there. Without any it is the reference alone.
    """
    if len(texts) > MOST:
        raise UsageError("compare objects", f"{len(texts)} sets are too many: {MOST} at most")
    if not texts:
        return [Spec("A", "the reference in bpf/")]
    return [Spec(chr(ord("A") + number), text, _paths(text)) for number, text in enumerate(texts)]


def _paths(text: str) -> tuple[Path, ...]:
    whole = Path(text)
    if text and whole.is_dir():  # Path("") is the current directory
        found = tuple(sorted(whole.glob("*.o")))
        if not found:
            raise UsageError(f"read {text}", "there is no object (*.o) in that directory")
        return found
    if text and (whole.exists() or "," not in text):
        return (whole,)
    if not all(text.split(",")):
        raise UsageError(f"read --object {text!r}", "a file's name in it is empty")
    return tuple(map(Path, text.split(",")))


def load_contender(
    spec: Spec, loader: ObjectLoader, abi: str, options: LoadOptions, stack: ExitStack
) -> Contender:
    """Loads a set, until ``stack`` closes. Errors as of `testbed.kmesh.subject.load_subject`.

    Programs that fit no era are no contract's, and attached as they are; then none may be rejected.
    """
    with ExitStack() as folder:
        paths = spec.paths
        if not paths:
            if shutil.which("clang") is None:
                loaded = stack.enter_context(load_reference(loader))
                return _described(spec, loaded, load_profile("main"), 0.0, {}, ())
            # gone when this returns: what else is read of them is read here
            paths = tuple(build_reference(folder.enter_context(scratch_folder("objects"))))
            abi = "main"
        loaded, profile, notes = _loaded(paths, loader, abi, options)
        stack.enter_context(loaded)
        if profile is not None and not spec.paths:
            notes = (("era", f"{profile.era} ({profile.about})"),)  # nobody has asked for it
        if profile is not None:
            loaded.debug_structs(profile.records.structs)
        load_ms, figures = _timed(paths, loader, options)
        return _described(spec, loaded, profile, load_ms, figures, notes)


def _loaded(
    paths: Sequence[Path], loader: ObjectLoader, abi: str, options: LoadOptions
) -> tuple[ProgramSet, Profile | None, tuple[tuple[str, str], ...]]:
    if not abi:
        try:
            recognise(tuple(loader.open(paths)))
        except UsageError as error:
            loaded = load_objects(loader, paths, options)
            with ExitStack() as stack:
                stack.push(loaded)
                for failure in loaded.failures:
                    raise failure.error() from None
                if not loaded.of_kind(ProgramKind.SOCKOPS):
                    why = "there is no sockops program in it, whose cost is asked for"
                    raise ProgramError(f"measure {loaded.origin}", why) from None
                stack.pop_all()
            return loaded, None, (("era", f"{error.why}: measured as programs without a contract"),)
    subject = load_subject(loader, paths, abi, options)
    notes = [("era", subject.era), *map(_rejected, subject.program_set.failures)]
    return subject.program_set, subject.profile, tuple(notes)


def _rejected(failure: ProgramFailure) -> tuple[str, str]:
    return "rejected", f"{failure.name} ({failure.section}): {failure.reason}"


def _timed(
    paths: Sequence[Path], loader: ObjectLoader, options: LoadOptions
) -> tuple[float, dict[str, dict[str, int]]]:
    """How long a load takes, in milliseconds, and what the verifier's statistics say of each program."""
    plain = LoadOptions(
        only=options.only, skip=options.skip, inner_maps=options.inner_maps, log_level=_STATISTICS
    )
    files = [read_object(path) for path in paths]
    start = time.perf_counter()
    with loader.load(files, plain) as reply:
        took = 1000 * (time.perf_counter() - start)
        figures = {
            name: {what: int(number) for what, number in _FIGURES.findall(program["log"])}
            for _, name, program in named_programs(reply.replies)
            if not program["errno"]
        }
    return took, figures


def _described(
    spec: Spec,
    loaded: ProgramSet,
    profile: Profile | None,
    load_ms: float,
    figures: Mapping[str, Mapping[str, int]],
    notes: tuple[tuple[str, str], ...],
) -> Contender:
    keys = dict(_keys(loaded))
    sizes = {}
    for key, name in keys.items():
        size, said = program_size(loaded.programs[name].fd), figures.get(name, {})
        stack, took = said.get("stack depth", 0), said.get("verification time", 0)
        sizes[key] = Size(size.verified, size.instructions, size.machine_code, stack, took)
    memory = sum(locked_memory(each) for each in loaded.maps.values())
    heading = ("programs", f"{spec.text}: {', '.join(keys.values())}")
    return Contender(spec, loaded, profile, keys, sizes, load_ms, memory, (heading, *notes))


def _keys(loaded: ProgramSet) -> Iterator[tuple[str, str]]:
    """Of programs that a lab runs, or that these call."""
    for name, program in loaded.programs.items():
        if program.kind is None or program.kind.target is Target.INTERFACE:
            continue
        alone = len(loaded.of_kind(program.kind)) == 1
        yield program.kind.section if alone else f"{program.kind.section} {name}", name
