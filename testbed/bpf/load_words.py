"""How people write load options in words: tail calls and inner maps."""

from __future__ import annotations

import re
from collections.abc import Sequence

from testbed.bpf.kinds import MapType
from testbed.errors import UsageError

_TAIL_CALL = re.compile(r"(?P<map>[\w.]+):(?P<index>\d+)=(?P<program>[\w#]+)")
_INNER_MAP = re.compile(r"(?P<map>[\w.]+)=(?P<type>\w+):(?P<key>\d+):(?P<value>\d+):(?P<entries>\d+)")


def parse_tail_calls(texts: Sequence[str]) -> tuple[tuple[str, int, str], ...]:
    """``MAP:INDEX=PROGRAM`` as (map, index, program). `UsageError` for what is none."""
    found = []
    for text in texts:
        match = _TAIL_CALL.fullmatch(text)
        if match is None:
            raise UsageError("read --tail-call", f"{text!r} is not MAP:INDEX=PROGRAM")
        found.append((match["map"], int(match["index"]), match["program"]))
    return tuple(found)


def parse_inner_maps(texts: Sequence[str]) -> dict[str, tuple[int, int, int, int]]:
    """``MAP=TYPE:KEY:VALUE:ENTRIES`` by map: (type, key size, value size, entries). `UsageError`."""
    found = {}
    for text in texts:
        match = _INNER_MAP.fullmatch(text)
        if match is None:
            raise UsageError("read --inner-map", f"{text!r} is not MAP=TYPE:KEY:VALUE:ENTRIES")
        sizes = (int(match["key"]), int(match["value"]), int(match["entries"]))
        if any(size >= 1 << 32 for size in sizes):
            raise UsageError("read --inner-map", f"{text!r} has a number of more than 32 bits")
        found[match["map"]] = (_map_type(match["type"]), *sizes)
    return found


def _map_type(word: str) -> int:
    if word.isdecimal():
        return int(word)
    try:
        return MapType[word.upper()]
    except KeyError:
        names = ", ".join(each.name.lower() for each in MapType)
        raise UsageError("read --inner-map", f"{word!r} is no map type", f"there are {names}") from None
