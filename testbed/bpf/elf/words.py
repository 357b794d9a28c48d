"""How people write load options in words: tail calls, inner maps and sizes of maps."""

from __future__ import annotations

import re

from testbed.bpf.kinds import MapType
from testbed.errors import UsageError

_TAIL_CALL = re.compile(r"(?P<map>[^:=]+):(?P<index>\d{1,10})=(?P<program>[^:=]+)")
_INNER_MAP = re.compile(
    r"(?P<map>[^:=]+)=(?P<type>\w+):(?P<key>\d{1,10}):(?P<value>\d{1,10}):(?P<entries>\d{1,10})"
)
_MAX_ENTRIES = re.compile(r"(?P<map>[^=]+)=(?P<entries>\d{1,10})")


def parse_tail_call(text: str) -> tuple[str, int, str]:
    """``MAP:INDEX=PROGRAM`` as (map, index, program). `UsageError`."""
    match = _TAIL_CALL.fullmatch(text)
    if match is None:
        raise UsageError(f"read --tail-call {text!r}", "it is not MAP:INDEX=PROGRAM, such as calls:0=parse")
    return match["map"], int(match["index"]), match["program"]


def parse_inner_map(text: str) -> tuple[str, tuple[int, int, int, int]]:
    """``MAP=TYPE:KEY:VALUE:ENTRIES`` as the map and (type, key size, value size, entries). `UsageError`."""
    what = f"read --inner-map {text!r}"
    match = _INNER_MAP.fullmatch(text)
    if match is None:
        raise UsageError(what, "it is not MAP=TYPE:KEY:VALUE:ENTRIES, such as outer=array:4:64:1")
    numbers = {each.name.lower(): each.value for each in MapType}
    kind = match["type"].lower().removeprefix("bpf_map_type_")
    if not kind.isdecimal() and kind not in numbers:
        raise UsageError(what, f"{match['type']!r} is no type of maps: name one, such as hash, or its number")
    sizes = (int(match["key"]), int(match["value"]), int(match["entries"]))
    if max(sizes) >> 32:
        raise UsageError(what, "sizes and entries are numbers up to 4294967295")
    return match["map"], (numbers.get(kind) or int(kind), *sizes)


def parse_max_entries(text: str) -> tuple[str, int]:
    """``MAP=N`` as the map and its size: entries, of a ring buffer bytes. `UsageError`."""
    what = f"read --max-entries {text!r}"
    match = _MAX_ENTRIES.fullmatch(text)
    if match is None:
        raise UsageError(what, "it is not MAP=N, such as connections=1")
    entries = int(match["entries"])
    if not 0 < entries < 1 << 32:
        raise UsageError(what, "a map has from 1 to 4294967295 entries")
    return match["map"], entries
