"""Kernels by the names that people give them: fetched where they are not here, ready to be booted."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from testbed.errors import UsageError, command
from testbed.kernels import own
from testbed.kernels.apt import Gone, Unreachable
from testbed.kernels.archive import get_index
from testbed.kernels.fetch import fetch
from testbed.kernels.index import Index, Offer
from testbed.kernels.kernel import Kernel
from testbed.kernels.progress import Progress, shown
from testbed.kernels.versions import numbers, version_key

_OLDEST = (5, 10)  # what the testbed's programs need
_NEAREST = 6


def find_kernels(
    names: Sequence[str],
    *,
    modules: Path | None = None,
    progress: Progress | None = None,
    archive: str | None = None,
    wholly: bool = False,
) -> list[Kernel]:
    """The kernels of those names, in that order, each once.

    A name is a series (``6.12``; ``7`` is the newest 7.x), an exact version or release (``6.1.176``,
    ``6.1.176-1``, ``6.1.0-50-cloud-amd64``), the path of an image or of a build tree, or ``host``.
    ``modules`` goes with a path: ``lib/modules/RELEASE``, or a root with one.
    What is not in the cache is fetched, what is there is verified (``wholly``: each byte).
    `UsageError` for an unknown name, `MachineError` when it cannot be fetched.
    """
    if progress is None:
        with shown() as bars:
            return find_kernels(names, modules=modules, progress=bars, archive=archive, wholly=wholly)
    if modules is not None and not any(map(own.is_path, names)):
        raise UsageError("use --modules", "it goes with a kernel given as a path, and none is")
    found: dict[str, Kernel] = {}
    index: Index | None = None
    for name in names:
        if name == "host":
            kernel = own.host_kernel()
        elif own.is_path(name):
            kernel = own.kernel_at(name, modules)
        else:
            index = index or get_index(progress, archive=archive)
            try:
                kernel = _fetch(name, index, progress, wholly)
            except Gone:  # sid's kernels go within days, while others' lists still name them
                index = get_index(progress, archive=archive, refresh=True)
                kernel = _fetch(name, index, progress, wholly)
        found.setdefault(kernel.digest, kernel)
    return list(found.values())


def _fetch(name: str, index: Index, progress: Progress, wholly: bool) -> Kernel:
    offer = choose(name, index)
    try:
        return fetch(offer, name, progress, wholly=wholly)
    except Unreachable as error:
        older = [each for each in matching(name, index.offers) if each.is_cached and each != offer]
        if not older:
            raise
        progress.say(f"{error.why}: {older[-1].release} stands for {name}, it is the newest in the cache")
        return fetch(older[-1], name, progress, wholly=wholly)


def every_series(*, progress: Progress | None = None, archive: str | None = None) -> list[str]:
    """The exact name of the newest kernel of each series that can be had, oldest first, from 5.10 on."""
    return [offer.version for offer in newest_of_each(_index(progress, archive))]


def exact(name: str, *, progress: Progress | None = None, archive: str | None = None) -> str:
    """The package version that a name means now, by which another machine gets the same kernel.

    Paths and ``host`` stay as they are. `UsageError` for an unknown name.
    """
    return name if name == "host" or own.is_path(name) else choose(name, _index(progress, archive)).version


def versions_between(
    good: str, bad: str, *, progress: Progress | None = None, archive: str | None = None
) -> list[str]:
    """Exact names of all kernels from ``good`` to ``bad`` (either may be the older), oldest first.

    One for a kernel's own version (of several packages of it the newest), over all series between.
    `UsageError` for a name that is unknown, and when both mean the same kernel.
    """
    index = _index(progress, archive)
    ends = [choose(good, index), choose(bad, index)]
    first, last = sorted(ends, key=lambda each: version_key(each.version))
    if first == last:
        raise UsageError(
            f"look between {good} and {bad}", f"both are {first.version}", "name two different kernels"
        )
    low, high = version_key(first.version), version_key(last.version)
    chosen: dict[str, Offer] = {}
    for offer in index.complete:
        if low <= version_key(offer.version) <= high:
            chosen[offer.upstream] = offer
    chosen[first.upstream], chosen[last.upstream] = first, last
    return [each.version for each in sorted(chosen.values(), key=lambda each: version_key(each.version))]


def _index(progress: Progress | None, archive: str | None) -> Index:
    if progress is not None:
        return get_index(progress, archive=archive)
    with shown() as shower:
        return get_index(shower, archive=archive)


def newest_of_each(index: Index) -> list[Offer]:
    """The newest complete kernel of each series from 5.10 on, oldest series first."""
    newest = {offer.series: offer for offer in index.complete if numbers(offer.series) >= _OLDEST}
    return sorted(newest.values(), key=lambda offer: numbers(offer.series))


def choose(name: str, index: Index) -> Offer:
    """The newest complete kernel that a name means. `UsageError`, with the nearest, where there is none."""
    found = matching(name, index.offers)
    complete = [offer for offer in found if not offer.missing]
    if complete:
        return complete[-1]
    near = ", ".join(_nearest(name, index))
    fix = f"the nearest are {near}; {command('kernels list --all-versions')} shows all"
    if found:
        lacking = ", ".join(found[-1].missing)
        why = f"the archive has {found[-1].version}, but no longer its {lacking}"
        raise UsageError(f"find the kernel {name}", why, fix)
    raise UsageError(f"find the kernel {name}", "no such version can be had", fix)


def matching(name: str, offers: Sequence[Offer]) -> list[Offer]:
    """The offers that a name means, oldest first."""
    wanted = name.removeprefix("linux-image-").removeprefix("v").replace("-rc", "~rc")
    exactly = [offer for offer in offers if wanted in {offer.version, offer.release}]
    if exactly:
        return exactly
    return [offer for offer in offers if wanted == offer.upstream or _is_part(wanted, offer)]


def _is_part(wanted: str, offer: Offer) -> bool:
    # "7" and "6.12" mean all of theirs; "6.1.0-50" and "6.12.107+deb13" leave the flavour out
    if re.fullmatch(r"\d+(\.\d+)?", wanted):
        return f"{offer.series}.".startswith(f"{wanted}.")
    return re.search(r"[-+]", wanted) is not None and offer.release.startswith(f"{wanted}-")


def _nearest(name: str, index: Index) -> list[str]:
    """Next to what looks like a version those of its series, else the series next to it, else all series."""
    wanted = numbers(name)
    series = [offer.series for offer in newest_of_each(index)]
    if not wanted:
        return series
    same = [offer.upstream for offer in index.complete if numbers(offer.series) == wanted[:2]]
    ordered = sorted(dict.fromkeys(same or series), key=numbers)
    at = bisect_left(ordered, wanted, key=numbers)
    return ordered[max(at - _NEAREST // 2, 0) : at + _NEAREST // 2]
