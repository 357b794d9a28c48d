"""Since which Linux a program can call a helper."""

from __future__ import annotations

import re
from bisect import bisect_left

from testbed.bpf.elf.info import ObjectInfo
from testbed.bpf.elf.needs import HELPER, helper_name, needs_of
from testbed.bpf.kinds import ProgramKind

Version = tuple[int, int]

_LAST_HELPERS: tuple[tuple[int, Version], ...] = (
    # the last number of enum bpf_func_id in include/uapi/linux/bpf.h of each version
    (155, (5, 10)),
    (162, (5, 11)),
    (163, (5, 12)),
    (165, (5, 13)),
    (168, (5, 14)),
    (175, (5, 15)),
    (179, (5, 16)),
    (185, (5, 17)),
    (193, (5, 18)),
    (203, (5, 19)),
    (207, (6, 0)),
    (209, (6, 1)),
    (211, (6, 2)),
)
_GET_NETNS_COOKIE = 122
_BY_TYPE: dict[tuple[int, int], Version] = {
    # helpers that are older, and were opened to a program type later (net/core/filter.c)
    (ProgramKind.SOCKOPS.prog_type, _GET_NETNS_COOKIE): (5, 15),
    (ProgramKind.SK_MSG.prog_type, _GET_NETNS_COOKIE): (5, 15),
}


def helper_since(prog_type: int, helper: int) -> Version | None:
    """The first Linux, from 5.10, where programs of the type can call the helper; None if not known."""
    if (found := _BY_TYPE.get((prog_type, helper))) is not None:
        return found
    index = bisect_left(_LAST_HELPERS, helper, key=lambda entry: entry[0])
    return _LAST_HELPERS[index][1] if index < len(_LAST_HELPERS) else None


def version_of(release: str) -> Version:
    """Of ``uname -r``: (6, 1) of ``6.1.0-50-cloud-amd64``; (0, 0) of what has no version in it."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def too_new(info: ObjectInfo, data: bytes, release: str) -> list[str]:
    """What an object needs that this kernel does not have, as it is older than that, in words.

    Asked of the running kernel, which is of that ``release``. A helper that it should have by its
    version, and has not, is none of them.
    """
    words = []
    programs = {program.name: program for program in info.programs}
    for need in needs_of(info, data):
        if need.kind != HELPER or need.present is not False or need.number is None:
            continue
        for name in need.by:
            since = helper_since(programs[name].prog_type, need.number)
            if since is not None and since > version_of(release):
                words.append(f"{name} needs {helper_name(need.number)}: Linux {since[0]}.{since[1]}")
    return words
