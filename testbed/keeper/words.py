"""Words for what a person gave and nothing has."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterable

from testbed.errors import UsageError
from testbed.kernel.privileges import need

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def need_root(what: str) -> None:
    """`MachineError` for who has not the capabilities of root: labs are root's."""
    need(what, why="labs are root's: run it with sudo")


def unknown(what: str, why: str, given: str, names: Iterable[str], kind: str) -> UsageError:
    """The error for a name that nothing has: which name was meant perhaps, else which ones there are."""
    there = list(names)
    near = difflib.get_close_matches(given, there, n=1, cutoff=0.5)
    if near:
        return UsageError(what, why, f"did you mean {near[0]}? ({kind}: {', '.join(there)})")
    return UsageError(what, why, f"{kind}: {', '.join(there) or 'none'}")


def is_name(name: str) -> bool:
    """Whether a lab can be called that."""
    return _NAME.fullmatch(name) is not None


def valid_name(name: str) -> str:
    """A lab's name as it is. `UsageError` when it is none."""
    if not is_name(name):
        raise UsageError(
            f"call a lab {name!r}",
            "a name is lower-case letters, digits and dashes, 31 at most, and begins with a letter",
        )
    return name


def uptime(since: float) -> str:
    """How long ago: ``42 s``, ``3 min``, ``5 h``, ``2 d``."""
    seconds = max(int(time.time() - since), 0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
