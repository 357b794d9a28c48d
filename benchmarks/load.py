"""How long the reference set takes to load and attach: from ELF objects, by a C program, by bcc.

usage: sudo .venv/bin/python -m benchmarks.load [--runs N] [--json FILE]

Everything is measured in turn in one run, so that a machine that slows down slows all of it. Times
are wall times in milliseconds; ratios are of medians. Giving a set back is outside of its time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.bpf.attach import attach
from testbed.bpf.elf.clang import compile_objects
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.kinds import MapType, Target
from testbed.bpf.program_set import ProgramSet
from testbed.kmesh.reference import load_reference, reference_sources
from testbed.lab.bench import Bench

HERE = Path(__file__).resolve().parent
BCC_EVERY = 10  # rounds: it takes as long as a hundred of the others

# In a mount namespace of its own, so that the pins go with it. One answer when all is loaded, one
# when it is given back.
BPFTOOL = """
mount -t bpf none "$1" && cd "$1" || exit 1
shift
while read -r _; do
    number=0
    for object; do
        number=$((number + 1))
        bpftool prog loadall "$object" "$PWD/$number" || exit 1
    done
    echo loaded
    rm -r [0-9]*  # not what the kernel put there
    echo removed
done
"""


class Asked:
    """A process that is asked for a set by a line on its stdin."""

    def __init__(self, command: Sequence[str | Path], stack: ExitStack) -> None:
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self._process.kill)

    def ask(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} has ended")
        return line


@dataclass(frozen=True)
class Bed:
    """What the rounds stand on."""

    objects: list[Path]
    cgroup_fd: int
    loader: ObjectLoader
    c: Asked
    bpftool: Asked


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times.append(1000 * (time.perf_counter() - start))


def make_bed(stack: ExitStack) -> Bed:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    sources = reference_sources()
    objects = compile_objects(sources.sources, sources.include, folder)
    subprocess.run(
        ["clang", "-O2", "-o", folder / "load", HERE / "load.c", "-lbpf"],  # noqa: S607
        check=True,
    )
    cgroup = stack.enter_context(Bench()).cgroup
    cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, cgroup_fd)
    pins = folder / "pins"
    pins.mkdir()
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", BPFTOOL, "sh"]
    return Bed(
        objects,
        cgroup_fd,
        stack.enter_context(ObjectLoader()),
        Asked([folder / "load", cgroup, *objects], stack),
        Asked([*private, pins, *objects], stack),
    )


def attach_all(program_set: ProgramSet, cgroup_fd: int, stack: ExitStack) -> None:
    (sockhash,) = [each for each in program_set.maps.values() if each.type == MapType.SOCKHASH]
    for program in program_set.programs.values():
        assert program.kind is not None
        attach(program, cgroup_fd if program.kind.target is Target.CGROUP else sockhash.fd, stack)


def by_elf(times: dict[str, list[float]], bed: Bed) -> None:
    with ExitStack() as stack:
        with timed(times["elf"]):
            with timed(times["elf load"]):
                program_set = load_objects(bed.loader, bed.objects)
            stack.enter_context(program_set)
            attach_all(program_set, bed.cgroup_fd, stack)
        assert not program_set.failures, program_set.failures


def by_bcc(times: dict[str, list[float]], bed: Bed) -> None:
    with ExitStack() as stack, timed(times["bcc"]):
        program_set = stack.enter_context(load_reference())
        attach_all(program_set, bed.cgroup_fd, stack)
        loaded = stack.pop_all()
    loaded.close()


def by_bpftool(times: dict[str, list[float]], bed: Bed) -> None:
    with timed(times["bpftool"]):
        bed.bpftool.ask()
        bed.bpftool.answer()
    bed.bpftool.answer()  # removed


def worker_start(times: dict[str, list[float]], bed: Bed) -> None:
    with ExitStack() as stack, timed(times["worker"]):
        loader = stack.enter_context(ObjectLoader())
        loader.open(bed.objects[-1:])
        started = stack.pop_all()
    started.close()


def by_c(times: dict[str, list[float]], bed: Bed) -> None:
    bed.c.ask()
    times["c"].append(int(bed.c.answer()) / 1e6)


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
    "bpftool": "`bpftool prog loadall`, thrice",
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
        each = times[name]
        figures = f"{statistics.median(each):10.2f}{min(each):10.2f}{max(each):10.2f}"
        lines.append(f"{label:32}{figures}{len(each):6}")
    ours, c, bpftool, bcc = (statistics.median(times[name]) for name in ("elf", "c", "bpftool", "bcc"))
    ratios = {"testbed / C": ours / c, "bpftool / testbed": bpftool / ours, "bcc / testbed": bcc / ours}
    lines.append("    ".join(f"{name}: {ratio:.2f}" for name, ratio in ratios.items()))
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(times))


if __name__ == "__main__":
    main()
