"""Compiles mutants, side by side and in memory: only the programs that the changed files reach."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from testbed.bpf.diagnostics import compiler_digest
from testbed.bpf.elf.clang import compile_command
from testbed.errors import MachineError, ProgramError, errno_name
from testbed.mutants.code import code_digest
from testbed.mutants.model import Built, Mutant
from testbed.mutants.sources import Sources

# What is undefined in C does what the compiler pleases, here and today: such a mutant is invalid, as
# whoever compiles it is told.
_UNDEFINED = (
    "-Werror=return-type",
    "-Werror=array-bounds",
    "-Werror=uninitialized",
    "-Werror=sometimes-uninitialized",
    "-Werror=implicit-function-declaration",
    "-Werror=int-conversion",
    "-Werror=incompatible-pointer-types",
)


class Builder:
    """Makes objects of sources with a change in them. The unchanged ones are compiled first.

    `ProgramError` where these do not compile, `MachineError` without clang.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._reached = {program: sources.reached_from(program) for program in sources.programs}
        objects = []
        for program in sources.programs:
            data, said = _compiled(sources.root / program, sources.expanded(program, {}))
            if data is None:
                raise ProgramError(f"compile {program}", compiler_digest(said).reason, "", said)
            objects.append((f"{Path(program).stem}.o", data))
        self.reference = tuple(objects)
        self._digests = tuple(code_digest(data) for _, data in objects)
        self.digest = _joined(self._digests)

    def build(self, mutant: Mutant) -> Built:
        """The set with that change; without objects where it does not compile."""
        objects, digests = list(self.reference), list(self._digests)
        for number, program in enumerate(self._sources.programs):
            if self._reached[program].isdisjoint(mutant.texts):
                continue
            text = self._sources.expanded(program, mutant.texts)
            data, said = _compiled(self._sources.root / program, text)
            if data is None:
                return Built(mutant, reason=f"does not compile: {compiler_digest(said).reason}")
            objects[number] = (objects[number][0], data)
            digests[number] = code_digest(data)
        return Built(mutant, tuple(objects), _joined(digests))

    def build_all(self, mutants: Sequence[Mutant], at_once: int, step: Callable[[], None]) -> Iterator[Built]:
        """All of them, in their order; ``step`` is called after each. Those of one code share the objects."""
        first: dict[str, Built] = {}
        pool = ThreadPoolExecutor(at_once)
        try:
            for built in pool.map(self.build, mutants):
                step()
                same = first.setdefault(built.digest, built)
                yield replace(built, objects=same.objects) if built.objects else built
        finally:
            pool.shutdown(cancel_futures=True)


def _joined(digests: Sequence[str]) -> str:
    return sha256("".join(digests).encode()).hexdigest()


def _compiled(source: Path, text: str) -> tuple[bytes | None, str]:
    """The object (None: it does not compile) and what clang said."""
    *flags, _, _, _, _ = compile_command(source, (), ())  # the rest names the file that it reads and writes
    command = [*flags, *_UNDEFINED, "-x", "c", "-c", "-", "-o", "-"]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    except OSError as error:
        raise MachineError("find clang", errno_name(error.errno or 0), "apt-get install clang") from error
    return None if done.returncode else done.stdout, done.stderr.decode(errors="backslashreplace")


def cpus() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))
