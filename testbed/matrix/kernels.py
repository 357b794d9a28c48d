"""The kernels of a matrix: which were asked for, in the order of their columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import UsageError
from testbed.kernels.find import every_series, exact
from testbed.kernels.own import is_path
from testbed.kernels.versions import series, version_key

# The long-term series that distributions run; the newest of all is added.
_USUAL = ("5.10", "6.1", "6.12")


@dataclass(frozen=True)
class Chosen:
    """A column: ``kernel`` is an exact version of the archive, a path, or ``host``."""

    label: str
    kernel: str


def wanted(
    names: Sequence[str], *, everything: bool, offered: Callable[[], Sequence[str]] = every_series
) -> list[str]:
    """The names given, those of every series, or else the usual ones and the newest.

    ``offered`` has exact versions, the newest of each series, oldest first.
    """
    if names and everything:
        raise UsageError("use --kernel with --all", "--all is each kernel that there is", "leave one out")
    if names:
        return list(dict.fromkeys(names))
    every = [series(version) for version in offered()]
    return every if everything else [name for name in every if name in _USUAL or name == every[-1]]


def choose(names: Sequence[str], version: Callable[[str], str] = exact) -> list[Chosen]:
    """Columns, oldest kernel first; as given where some are of no known version.

    ``version`` says which exact version a name means.
    """
    chosen = []
    for name in names:
        if is_path(name):
            path = Path(name).expanduser().resolve()
            if not path.exists():
                raise UsageError(f"use the kernel {name}", "there is no such file or directory")
            chosen.append(Chosen(path.name, str(path)))
        else:
            chosen.append(Chosen(name, version(name)))
    labels = [each.label for each in chosen]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UsageError("tell the kernels apart", f"two of them are called {twice}")
    if any(not series(each.kernel) for each in chosen):
        return chosen
    return sorted(chosen, key=lambda each: version_key(each.kernel))
