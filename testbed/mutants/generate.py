"""Mutants of C sources: by universalmutator's rules for C, line by line."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections import Counter
from collections.abc import Iterator

from testbed.errors import MachineError
from testbed.mutants.model import Mutant, stable_id
from testbed.mutants.noise import code_lines, is_noise, names_in
from testbed.mutants.sources import Sources

_RULES = ["universal.rules", "c_like.rules", "c.rules"]
_WORDS = {"break", "continue", "if"}  # what the rules put in


def generated(sources: Sources) -> list[Mutant]:
    """Every mutant of the files that the programs are made of, in the order of files and lines.

    `MachineError` without universalmutator.
    """
    known = names_in(sources.texts.values()) | _WORDS
    files = list(
        dict.fromkeys(
            name for program in sources.programs for name in (program, *sorted(sources.reached_from(program)))
        )
    )
    return [mutant for name in files for mutant in _of_file(name, sources.texts[name], known)]


def _of_file(name: str, text: str, known: frozenset[str]) -> Iterator[Mutant]:
    lines = text.split("\n")
    code = code_lines(lines)
    seen: Counter[tuple[str, str]] = Counter()
    for number, changed in _changes(lines):
        old, new = lines[number - 1], changed.rstrip("\n")
        if number not in code or is_noise(old, new, known, code[number]):
            continue
        words = _shown(old), _shown(new)
        seen[words] += 1
        mutated = "\n".join((*lines[: number - 1], new, *lines[number:]))
        yield Mutant(stable_id(name, *words, seen[words]), name, number, *words, texts={name: mutated})


def _shown(text: str) -> str:
    """Without what is around it: indents, and what makes a macro go on."""
    return "\n".join(line.removesuffix("\\").strip() for line in text.split("\n"))


def _changes(lines: list[str]) -> list[tuple[int, str]]:
    """(number, what stands there instead), by line."""
    try:
        mutator = importlib.import_module("universalmutator.mutator")  # it has no types
    except ImportError as error:
        raise MachineError(
            "make mutants",
            "universalmutator is not installed",
            "pip install --no-deps universalmutator==1.14.1",
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
        found = mutator.mutants_regexp([f"{line}\n" for line in lines], ruleFiles=_RULES, ignorePatterns=[])
    return sorted(((number, changed) for number, changed, *_ in found), key=lambda each: each[0])
