"""What people add to the generated mutants: mistakes picked by hand, and arguments that a mutant is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import testbed.kmesh
from testbed.errors import UsageError
from testbed.mutants.model import Mutant, stable_id
from testbed.mutants.sources import Sources, without_comments

DATA = Path(testbed.kmesh.__file__).parent / "mutants"


@dataclass(frozen=True)
class Argument:
    """Why a change changes nothing. ``old`` and ``new`` are whole lines; ``occurrence`` (from 1) is which of
    several such changes in the file, 0 all of them.
    """

    file: str
    old: str
    new: str
    reason: str
    occurrence: int = 0


def hand_picked(sources: Sources, path: Path = DATA / "hand_picked.yaml") -> tuple[list[Mutant], list[str]]:
    """The mutants of a file, and the names of those whose text is not (once) in these sources."""
    mutants, unfit = [], []
    for entry in _entries(path, {"name", "file", "replace", "why"}):
        name, file = entry["name"], entry["file"]
        text = sources.texts.get(file, "")
        line = 0
        for old, new in entry["replace"]:
            plain = without_comments(old)
            if text.count(plain) != 1:
                unfit.append(name)
                break
            line = line or text[: text.index(plain)].count("\n") + 1
            text = text.replace(plain, new)
        else:
            olds, news = ("\n".join(each[side].strip("\n") for each in entry["replace"]) for side in (0, 1))
            mutants.append(
                Mutant(stable_id(name), file, line, olds, news, name, entry["why"], texts={file: text})
            )
    return mutants, unfit


def arguments(path: Path = DATA / "equivalent.yaml") -> list[Argument]:
    """The arguments of a file."""
    return [Argument(**entry) for entry in _entries(path, {"file", "old", "new", "reason"}, {"occurrence"})]


def argued(found: Sequence[Argument], mutants: Sequence[Mutant]) -> tuple[dict[str, str], list[Argument]]:
    """The reason for each mutant that has one, by id, and the arguments that no mutant has any more."""
    reasons: dict[str, str] = {}
    idle = []
    for argument in found:
        same = [
            mutant
            for mutant in mutants
            if not mutant.name
            and (mutant.file, mutant.old, mutant.new) == (argument.file, argument.old, argument.new)
        ]
        if argument.occurrence:
            same = same[argument.occurrence - 1 : argument.occurrence]
        reasons.update((mutant.id, argument.reason) for mutant in same)
        if not same:
            idle.append(argument)
    return reasons, idle


def _entries(path: Path, needed: set[str], optional: set[str] = frozenset()) -> list[dict[str, Any]]:  # type: ignore[assignment]
    """The entries of a file; `UsageError` for one that is not as it has to be."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"read {path}", str(error)) from error
    for entry in found:
        if not isinstance(entry, dict) or not needed <= set(entry) <= needed | optional:
            raise UsageError(f"read {path}", f"an entry needs {', '.join(sorted(needed))}: {entry!s:.80}")
    return list(found)
