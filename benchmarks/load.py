"""How long the reference set takes to load and attach: from ELF objects, by a C program, by bcc.

usage: sudo .venv/bin/python -m benchmarks.load [--runs N] [--json FILE]

Everything is measured in turn in one run, so that a machine that slows down slows all of it. Times
are wall times in milliseconds; ratios are of medians. Giving a set back is outside of its time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.asked import PRIVATE, Asked, compiled
from benchmarks.measure import clocked
from testbed.bpf.attach import attach
from testbed.bpf.elf.clang import compile_objects
from testbed.bpf.elf.info import ObjectInfo
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.kinds import MapType, ProgramKind, Target
from testbed.bpf.program_set import ProgramSet
from testbed.kmesh.reference import load_reference, reference_sources
from testbed.lab.bench import Bench

BCC_EVERY = 10  # rounds: it takes as long as a hundred of the others

# In a mount namespace of its own, so that the pins go with it. One answer when all is loaded and attached,
# one when it is given back: what it attached would stay with the cgroup.
BPFTOOL = """
mount -t bpf none "$1" && cd "$1" || exit 1
cgroup=$2
shift 2
while read -r _; do
    number=0
    for object; do
        number=$((number + 1))
        bpftool prog loadall "$object" "$PWD/$number" pinmaps "$PWD/maps$number" || exit 1
    done
{attach}
    echo attached
{detach}
    rm -r [0-9]* maps*  # not what the kernel put there
    echo removed
done
"""
_ATTACH_TYPES = {
    ProgramKind.SOCKOPS: "sock_ops",
    ProgramKind.CONNECT4: "connect4",
    ProgramKind.CONNECT6: "connect6",
}


def bpftool_script(infos: Sequence[ObjectInfo]) -> str:
    """`BPFTOOL` for these objects: bpftool wants to be told what each program is attached to."""
    lines: dict[str, list[str]] = {"attach": [], "detach": []}
    for number, info in enumerate(infos, 1):
        sockhashes = [each.name for each in info.maps if each.map_type == MapType.SOCKHASH]
        for program in info.programs:
            pin = f'pinned "$PWD/{number}/{program.name}"'
            if program.kind in _ATTACH_TYPES:
                where, what = 'cgroup {verb} "$cgroup"', f"{_ATTACH_TYPES[program.kind]} {pin}"
            else:
                sockhash = f'pinned "$PWD/maps{number}/{sockhashes[0]}"'
                where, what = "prog {verb}", f"{pin} sk_msg_verdict {sockhash}"
            for verb, told in lines.items():
                told.append(f"    bpftool {where.format(verb=verb)} {what} || exit 1")
    return BPFTOOL.format(**{verb: "\n".join(told) for verb, told in lines.items()})


@dataclass(frozen=True)
class Bed:
    """What the rounds stand on."""

    objects: list[Path]
    cgroup_fd: int
    loader: ObjectLoader
    c: Asked
    bpftool: Asked | None
    """None where it is not installed."""


def make_bed(stack: ExitStack) -> Bed:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    sources = reference_sources()
    objects = compile_objects(sources.sources, sources.include, folder)
    cgroup = stack.enter_context(Bench()).cgroup
    cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, cgroup_fd)
    loader = stack.enter_context(ObjectLoader())
    return Bed(
        objects,
        cgroup_fd,
        loader,
        Asked("load.c", [compiled("load", folder, "-lbpf"), cgroup, *objects], stack),
        _bpftool(loader.open(objects), folder, cgroup, stack) if shutil.which("bpftool") else None,
    )


def _bpftool(infos: Sequence[ObjectInfo], folder: Path, cgroup: Path, stack: ExitStack) -> Asked:
    pins = folder / "pins"
    pins.mkdir()
    objects = [info.path for info in infos]
    script = [*PRIVATE, "sh", "-c", bpftool_script(infos), "sh"]
    return Asked("bpftool", [*script, pins, cgroup, *objects], stack)


def attach_all(program_set: ProgramSet, cgroup_fd: int, stack: ExitStack) -> None:
    (sockhash,) = [each for each in program_set.maps.values() if each.type == MapType.SOCKHASH]
    for program in program_set.programs.values():
        assert program.kind is not None
        attach(program, cgroup_fd if program.kind.target is Target.CGROUP else sockhash.fd, stack)


def by_elf(times: dict[str, list[float]], bed: Bed) -> None:
    with ExitStack() as stack:
        with clocked(times["elf"]):
            with clocked(times["elf load"]):
                program_set = load_objects(bed.loader, bed.objects)
            stack.enter_context(program_set)
            attach_all(program_set, bed.cgroup_fd, stack)
        assert not program_set.failures, program_set.failures


def by_bcc(times: dict[str, list[float]], bed: Bed) -> None:
    with ExitStack() as stack, clocked(times["bcc"]):
        program_set = stack.enter_context(load_reference())
        attach_all(program_set, bed.cgroup_fd, stack)
        loaded = stack.pop_all()
    loaded.close()


def by_bpftool(times: dict[str, list[float]], bed: Bed) -> None:
    if bed.bpftool is None:
        return
    with clocked(times["bpftool"]):
        bed.bpftool.ask()
        bed.bpftool.answer()
    bed.bpftool.answer()  # removed


def worker_start(times: dict[str, list[float]], bed: Bed) -> None:
    with ExitStack() as stack, clocked(times["worker"]):
        loader = stack.enter_context(ObjectLoader())
        loader.open(bed.objects[-1:])
        started = stack.pop_all()
    started.close()


def by_c(times: dict[str, list[float]], bed: Bed) -> None:
    times["c"].append(bed.c.number() / 1e6)


def one_round(times: dict[str, list[float]], bed: Bed) -> None:
    pair = [by_c, by_elf]
    for each in pair if len(times["c"]) % 2 else reversed(pair):  # what comes second finds warmer caches
        each(times, bed)
    worker_start(times, bed)
    by_bpftool(times, bed)


LABELS = {
    "elf": "load and attach, testbed",
    "elf load": "of it load_objects",
    "c": "the same in C",
    "bpftool": "by bpftool, thrice",
    "bcc": "by bcc, from C source",
    "worker": "a loader to its first answer",
}


def measure(runs: int) -> dict[str, list[float]]:
    """The times of each thing, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in LABELS}
    with ExitStack() as stack:
        bed = make_bed(stack)
        for run in range(-2, runs):  # two to warm up
            kept = times if run >= 0 else {name: [] for name in times}
            one_round(kept, bed)
            if run == -1 or run % BCC_EVERY == 0:
                by_bcc(kept, bed)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    times = measure(arguments.runs)
    lines = [f"{'':32}{'median':>10}{'min':>10}{'max':>10}{'n':>6}   (ms)"]
    for name, label in LABELS.items():
        if not (each := times[name]):
            continue
        figures = f"{statistics.median(each):10.2f}{min(each):10.2f}{max(each):10.2f}"
        lines.append(f"{label:32}{figures}{len(each):6}")
    ours, c, bpftool, bcc = (
        statistics.median(times[name] or [math.nan]) for name in ("elf", "c", "bpftool", "bcc")
    )
    ratios = {"testbed / C": ours / c, "bpftool / testbed": bpftool / ours, "bcc / testbed": bcc / ours}
    lines.append("    ".join(f"{name}: {ratio:.2f}" for name, ratio in ratios.items()))
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
