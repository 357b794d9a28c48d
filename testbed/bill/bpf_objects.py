"""BPF objects by what the kernel says of their descriptors: kind and id."""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple, cast

Kind = Literal["prog", "map", "link", "btf"]
_IDS = {"prog_id": "prog", "map_id": "map", "link_id": "link", "btf_id": "btf"}
NAMES: dict[Kind, str] = {"prog": "program", "map": "map", "link": "link", "btf": "BTF"}


class BpfObject(NamedTuple):
    """What the kernel knows it by. A number is not used again before all others have been."""

    kind: Kind
    number: int


def facts(fd: int) -> dict[str, str]:
    """What ``/proc/self/fdinfo`` says of a descriptor (proc(5)); nothing of one that is closed."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as lines:  # noqa: PTH123
            return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    except OSError:
        return {}


def object_of(fd: int) -> BpfObject | None:
    """The program, map, link or BTF that a descriptor stands for. A link tells its program's id too."""
    said = facts(fd)
    for name in ("link_id", "map_id", "btf_id", "prog_id"):
        if name in said:
            return BpfObject(cast(Kind, _IDS[name]), int(said[name]))
    return None


def lives(each: BpfObject) -> bool:
    """Whether the kernel still has it. Without a libbpf in this process there was none."""
    if "testbed.bpf.libbpf" not in sys.modules:
        return False
    from testbed.bpf.libbpf import object_lives

    return object_lives(each.kind, each.number)


def name_of(kind: Kind, fd: int) -> str:
    """What a program or a map is called, as far as the kernel keeps names: 15 letters."""
    if kind not in {"prog", "map"} or "testbed.bpf.libbpf" not in sys.modules:
        return ""
    from testbed.bpf.libbpf import object_name

    return object_name("prog" if kind == "prog" else "map", fd)
