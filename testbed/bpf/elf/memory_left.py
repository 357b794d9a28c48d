"""How much memory maps may take: half of what the machine has left, or its cgroup's limit leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.bpf.elf.map_memory import available_memory

_UNLIMITED = 1 << 62  # v1 says "no limit" by a number


@dataclass(frozen=True)
class MemoryLeft:
    """Bytes for maps; ``by`` is what limits them, for people."""

    size: int
    by: str


def memory_left() -> MemoryLeft:
    """Of the machine, or of the memory cgroups of this process (v1 or v2), whichever is less."""
    found = [MemoryLeft(available_memory(), "the machine's memory")]
    for folder in _memory_cgroups():
        with suppress(OSError, ValueError):  # the root has no limit; "max" is none either
            found.append(_of_cgroup(folder))
    return min(found, key=lambda each: each.size)


def _of_cgroup(folder: Path) -> MemoryLeft:
    v2 = (folder / "memory.max").exists()
    name, used = ("max", "current") if v2 else ("limit_in_bytes", "usage_in_bytes")
    limit_file = folder / f"memory.{name}"
    limit = int(limit_file.read_text(encoding="ascii"))
    if limit >= _UNLIMITED:
        raise ValueError("no limit")
    stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    prefix = "" if v2 else "total_"
    cache = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    taken = int((folder / f"memory.{used}").read_text(encoding="ascii")) - cache  # which makes room
    return MemoryLeft(max(limit - taken, 0) // 2, f"{limit_file}, which is {limit >> 20} MiB")


def _memory_cgroups() -> Iterator[Path]:
    """That of this process, and those above it, wherever they are mounted (proc(5), cgroups(7))."""
    mounts = list(_mounts())
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        for root, where, of_v1 in mounts:
            if bool(controllers) is of_v1 and Path(path).is_relative_to(root):
                below = Path(path).relative_to(root)
                yield from (where / each for each in (below, *below.parents))


def _mounts() -> Iterator[tuple[str, Path, bool]]:
    """(root within the hierarchy, mount point, whether it is v1's memory controller)."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            fields = mount.split()
            yield fields[3], Path(fields[4].replace("\\040", " ")), kind == "cgroup"
