"""What a mutant is, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256


class Verdict(Enum):
    """What became of a mutant. ``ERROR``: nothing can be said of it, by a fault of the run."""

    KILLED = "killed"
    SURVIVED = "survived"
    INVALID = "invalid"
    EQUIVALENT = "equivalent"
    ERROR = "error"


@dataclass(frozen=True)
class Mutant:
    """One change. ``texts`` are the changed files as they are to be compiled, by their names in the sources.

    ``old`` and ``new`` are the lines, or the instructions, without what surrounds them. ``name``
    and ``why`` are of those picked by hand.
    """

    id: str
    file: str
    line: int
    old: str
    new: str
    name: str = ""
    why: str = ""
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Built:
    """A mutant with the set that it makes: (name, bytes) of each object.

    ``digest`` is the same for sets of the same code, maps and data. Without objects it is invalid,
    for ``reason``.
    """

    mutant: Mutant
    objects: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    digest: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Failure:
    """A scenario that failed: its number in the collection, and why in one line."""

    item: int
    why: str


@dataclass(frozen=True)
class Result:
    """The verdict on one mutant.

    ``by`` are the scenarios that failed, in the order that they ran in. ``reason`` says why there was
    no run, or how it ended. ``twin`` is the id of a mutant of the same code, which was run in its place.
    ``ran`` counts scenarios, ``seconds`` are of the run.
    """

    mutant: Mutant
    verdict: Verdict
    by: tuple[Failure, ...] = ()
    reason: str = ""
    ran: int = 0
    seconds: float = 0.0
    twin: str = ""


def stable_id(*words: object) -> str:
    """Eight hexadecimal digits: the same for the same words."""
    return sha256("\0".join(map(str, words)).encode()).hexdigest()[:8]
