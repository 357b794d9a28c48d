"""A picture of the machine: everything that the testbed could leave behind."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from testbed.bpf.libbpf import object_ids
from testbed.kernel.cgroup import cgroup_root, processes
from testbed.kernel.ownership import REGISTRY


def _bpf(kind: Literal["prog", "map", "link"]) -> set[str]:
    return {f"{kind} {number}" for number in object_ids(kind)}


class Held(set[str]):
    """What a run holds, and when it was looked at: seconds of CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        super().__init__()
        self.when = time.clock_gettime(time.CLOCK_BOOTTIME)


def left_of(held: Held) -> set[str]:
    """What of it is there now."""
    return held & set().union(*picture(held.when).values())


def _started(process: Path) -> float:
    words = (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return int(words[19]) / os.sysconf("SC_CLK_TCK")


def _namespaces(until: float) -> set[str]:
    """Network namespaces by the processes that are in them, those of labs that somebody has up left out.

    The number of one that is gone is the next one's, which may be another test's by then: of processes
    that were started later none can be in the one that is asked for.
    """
    living = _living()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if _started(process) <= until and not any(
                name in (process / "cgroup").read_text(encoding="utf-8") for name in living
            ):
                found.add(f"netns {(process / 'ns/net').readlink()}")
        except OSError:
            continue  # gone meanwhile
    return found


def _living() -> list[str]:
    """The cgroups whose owners live: they hold the locks of their records (proc(5), ``/proc/locks``)."""
    locked = {
        line.split()[-3].rpartition(":")[2]
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()
        if " FLOCK " in line
    }
    found = []
    for record in REGISTRY.glob("*.json"):
        with suppress(FileNotFoundError):
            if str(record.stat().st_ino) in locked:
                found.append(record.stem)
    return found


def _processes() -> set[str]:
    """Those of the testbed, not the tests'; the dead that nobody has waited for do not count."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "testbed" in words and int(process.name) != os.getpid() and "pytest" not in words:
            found.add(f"process {process.name}")
    return found


_HELD = {"prog_id": "prog", "map_id": "map", "link_id": "link"}


def belongings(pid: int) -> Held:
    """What a (stopped) run holds: by its descriptors, and by its cgroups and who is in them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    found = Held()
    found.update(f"process {each}" for each in (str(pid), *children))
    for info in list(Path(f"/proc/{pid}/fdinfo").iterdir()):
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key in _HELD:
                found.add(f"{_HELD[key]} {value.strip()}")
        target = str(Path(f"/proc/{pid}/fd/{info.name}").readlink())
        if target.startswith("net:["):
            found.add(f"netns {target}")
    for path in cgroups_of(pid):
        found.add(f"cgroup {path}")
        found.update(f"process {each}" for each in processes(path))
    return found


def cgroups_of(pid: int) -> list[Path]:
    """The cgroups that a living run has registered, and all below."""
    for record in REGISTRY.glob("*.json"):
        try:
            owner = json.loads(record.read_text(encoding="utf-8"))["pid"]
        except FileNotFoundError:
            continue
        if owner == pid:
            with cgroup_root() as root:
                return [Path(path) for path, _, _ in os.walk(root.path / record.stem)]
    return []


def picture(until: float = math.inf) -> dict[str, set[str]]:
    """What there is now, by kind; namespaces of processes that were started ``until`` then."""
    with cgroup_root() as root:
        cgroups = {f"cgroup {path}" for path, _, _ in os.walk(root.path)}
    return {
        "programs": _bpf("prog"),
        "maps": _bpf("map"),
        "links": _bpf("link"),
        "cgroups": cgroups,
        "mounts": set(Path("/proc/mounts").read_text(encoding="utf-8").splitlines()),
        "interfaces": {path.name for path in Path("/sys/class/net").iterdir()},
        "named namespaces": {path.name for path in Path("/run/netns").glob("*")},
        "namespaces": _namespaces(until),
        "processes": _processes(),
        "records": {path.name for path in REGISTRY.glob("*")},
    }
