"""The maps of a set under pressure: how many entries, how much memory, filled by strangers.

Measured on Linux 6.18: an insertion into a full HASH answers E2BIG, from user space and from a
program alike, also at max_entries 1; an update of an entry that is there still works. So does a
SOCKHASH (net/core/sock_map.c), from bpf_sock_hash_update() too. While an sk_msg program is attached
to it, a socket may be in it once: a second key answers EBUSY.
"""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from testbed.bpf.kinds import MapType, map_type_name
from testbed.bpf.maps import Map
from testbed.errors import UsageError, errno_name
from testbed.lab.host import Host

_FILLABLE = {MapType.HASH, MapType.SOCKHASH}
_COUNTED = {*_FILLABLE, MapType.LRU_HASH, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH, MapType.HASH_OF_MAPS}
_OTHER_FILES = 1000
_STRANGER = b"\xee"  # in every byte of a stranger's key but its number: no address is like that


def entries(maps: Mapping[str, Map]) -> dict[str, int]:
    """How many entries each map has that keeps keys of its own, by name."""
    return {name: sum(1 for _ in each) for name, each in maps.items() if each.type in _COUNTED}


def memlock(each: Map) -> int:
    """The bytes of kernel memory that a map takes, by its fdinfo (bpf_map_show_fdinfo)."""
    for line in Path(f"/proc/self/fdinfo/{each.fd}").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "memlock":
            return int(value)
    return 0


def resident() -> int:
    """The bytes of memory that this process has resident (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Strangers:
    """Entries of nobody that a map was filled with."""

    map: Map
    keys: tuple[bytes, ...]

    def left(self) -> int:
        """How many of them are still there."""
        return len(set(self.keys) & set(self.map))


def find(maps: Mapping[str, Map], name: str, what: str) -> Map:
    """A map by its name. `UsageError` where the set has none of that name."""
    if name not in maps:
        raise UsageError(what, "the set has no map of that name", f"there are {', '.join(sorted(maps))}")
    return maps[name]


def fill(each: Map, elsewhere: Host, stack: ExitStack) -> Strangers:
    """Fills a map to max_entries with entries of nobody, beside those that it has.

    The values are zeroes, as of an address that is managed or a connection that is allowed; in a
    sockhash they are listeners of ``elsewhere``, where the program is not at work, which close with
    ``stack``. `UsageError` for a type that cannot be filled from user space.
    """
    what = f"fill the map {each.name}"
    if each.type not in _FILLABLE or each.key_size < 4:
        hint = "; --stall fills it" if each.type == MapType.RINGBUF else ""
        why = f"it is of the type {map_type_name(each.type)}, not a hash or a sockhash{hint}"
        raise UsageError(what, why)
    room = each.max_entries - sum(1 for _ in each)
    keys = tuple(number.to_bytes(4, "big").rjust(each.key_size, _STRANGER) for number in range(room))
    of_sockets = each.type == MapType.SOCKHASH
    values = _sockets(room, elsewhere, stack) if of_sockets else itertools.repeat(0)
    try:
        for key, value in zip(keys, values, strict=False):
            each.set(key, value.to_bytes(each.value_size, "little"))
    except OSError as error:
        raise UsageError(what, errno_name(error.errno or 0)) from error
    return Strangers(each, keys)


def _sockets(count: int, elsewhere: Host, stack: ExitStack) -> Iterator[int]:
    """Descriptors of so many listeners. The limit of open files is raised for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if wanted > hard:
        raise UsageError(
            f"open {count} sockets to fill a sockhash",
            f"a process may have {hard} files open here (`ulimit -Hn`)",
            "choose a smaller map by --max-entries, and fill that",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    for _ in range(count):
        sock = stack.enter_context(elsewhere.socket())
        sock.listen()
        yield sock.fileno()
