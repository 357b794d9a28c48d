"""Did you mean: the nearest of the words that would have been right."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

_AT_MOST = 12
_SYSCTLS = Path("/proc/sys")


def nearest(word: object, known: Iterable[str]) -> str:
    """The known word that is most like this one; empty when none is."""
    found = difflib.get_close_matches(str(word).lower(), list(known), n=1, cutoff=0.6)
    return found[0] if found else ""


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """``; did you mean gateway?``, or nothing."""
    found = nearest(word, known)
    return f"; did you mean {found}?" if found else ""


def listed(words: Iterable[str]) -> str:
    """``a, b, c``; of many only the first."""
    every = list(words)
    more = f" and {len(every) - _AT_MOST} more" if len(every) > _AT_MOST else ""
    return ", ".join(every[:_AT_MOST]) + more


def did_you_mean_sysctl(word: str) -> str:
    """As `did_you_mean`, of the network's sysctls that this kernel has."""
    dotted = word.replace("/", ".").strip(".")
    known = _sysctls()
    by_end = sorted((name for name in known if name.endswith(f".{dotted}")), key=len)
    return f"; did you mean {by_end[0]}?" if by_end else did_you_mean(dotted, known)


def _sysctls() -> list[str]:
    return [
        ".".join((Path(folder) / file).relative_to(_SYSCTLS).parts)
        for folder, _, files in os.walk(_SYSCTLS / "net")
        for file in files
    ]
