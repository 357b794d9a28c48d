"""How long guests take: one command in a kernel, the first scenario, the contract, a matrix, an initramfs.

usage: .venv/bin/python -m benchmarks.matrix [--only PART[,PART…]] [--kernel V]… [--rounds N] [--vng FILE]

Parts: `commands` (beside virtme-ng with the same image, where there is one), `ready`, `contract` (on the
last of the kernels), `matrix`, `initramfs`. What is compared is measured in turn in one run, so that a
machine that slows down slows all of it. Times are wall times in seconds; ratios are of medians. Cold is
without a snapshot; those of this run are its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path

from testbed.guest.accel import accelerator
from testbed.guest.initramfs import base, overlay
from testbed.guest.qemu import MEMORY_MIB, dying_with_us
from testbed.guest.system import find_system
from testbed.kernels.cache import cache_dir, cache_root, locked, side_dir
from testbed.kernels.find import every_series, exact, find_kernels, versions_between
from testbed.kernels.kernel import Kernel
from testbed.kernels.versions import series
from testbed.matrix.cell import Cell, run_cell
from testbed.matrix.collection import collect
from testbed.matrix.digest import fingerprint
from testbed.matrix.own_objects import own_objects
from testbed.report.session import Selection

KERNELS = ("5.10", "6.1", "6.12")
COMMANDS = (("true",), ("python3", "-c", "import pyroute2"))
MANY = 10  # kernels, for which there is a target
DEADLINE_S = 1200  # of a process
INITRAMFS_EACH = 5  # times a round: it takes no time

# What our own guests have too, for what it does to emulation. Theirs are given the same processor as well.
LEAN = (
    "mitigations=off nokaslr no5lvl audit=0 apparmor=0 rodata=off init_on_alloc=0 init_on_free=0 "
    "hardened_usercopy=off randomize_kstack_offset=off rcupdate.rcu_expedited=1 i8042.noaux i8042.nokbd "
    "nomodeset tsc=reliable no_timer_check clocksource=tsc random.trust_cpu=on cryptomgr.notests"
)


@dataclass(frozen=True)
class Bed:
    """What the parts stand on. Names are exact; ``times``, in seconds, by what was measured."""

    kernels: list[Kernel]
    names: list[str]
    rounds: int
    vng: list[str]
    many: list[str]
    place: Path
    times: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def measure(self, what: str, words: Sequence[str]) -> None:
        """One time more of it; a line instead where it fails."""
        begin = time.perf_counter()
        if problem := run(words):
            say(f"{what}: {problem}")
        else:
            self.times[what].append(time.perf_counter() - begin)

    def row(self, what: str, at_most: float = 0, beside: str = "", at_least: float = 0) -> str:
        """A line of a table: it is to take ``at_most`` so long, or be so many times faster than another."""
        times, other = self.times[what], self.times.get(beside)
        if not times:
            return f"{what:48}{'none':>9}"
        median = statistics.median(times)
        line = f"{what:48}{median:9.2f}  {f'({min(times):.2f}–{max(times):.2f})':16}{len(times):>3}"
        faster = statistics.median(other) / median if other else 0.0
        line += f"{faster:8.1f}" if faster else " " * 8
        if at_most:
            line += f"  ≤ {at_most:g} s" + (", missed" if median > at_most else "")
        if at_least and faster:
            line += f"  ≥ {at_least:g}" + (", missed" if faster < at_least else "")
        return line.rstrip()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(words: Sequence[str]) -> str:
    """A whole process; what went wrong if it does not end with 0. What it starts ends with it."""
    none, pipe, same = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    mine = dying_with_us([*words])
    with subprocess.Popen(mine, stdin=none, stdout=pipe, stderr=same, start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            return f"has not ended after {DEADLINE_S} s"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return f"ended with {process.returncode}: {' / '.join(lines[-2:])}" if process.returncode else ""


def ours(*words: str) -> list[str]:
    return [sys.executable, "-m", "testbed", *words]


def theirs(bed: Bed, kernel: Kernel, words: Sequence[str]) -> list[str]:
    image = bed.place / kernel.release / kernel.image.name
    script = shlex.join(sys.executable if word == "python3" else word for word in words)  # that has pyroute2
    return [*bed.vng, "--run", str(image), "--cpus", "1", "--memory", f"{MEMORY_MIB}M", "--exec", script]


def drop_snapshots() -> None:
    shutil.rmtree(cache_dir("snapshots"))


def commands(bed: Bed) -> Iterator[str]:
    """Whole processes, ours and theirs, as a shell starts them."""
    compared = [kernel for kernel in bed.kernels if bed.vng and can_vng(bed, kernel)]
    whats = {(kernel, words): f"{kernel.label}: {words[-1]}" for kernel in bed.kernels for words in COMMANDS}
    for _ in range(bed.rounds):
        for (kernel, words), what in whats.items():
            drop_snapshots()
            name = bed.names[bed.kernels.index(kernel)]
            for how in ("cold", "snapshot"):
                bed.measure(f"{what}, {how}", ours("vm", "--kernel", name, "--", *words))
            if kernel in compared:
                bed.measure(f"{what}, virtme-ng", theirs(bed, kernel, words))
    for what in whats.values():
        yield bed.row(f"{what}, cold", beside=f"{what}, virtme-ng")
        yield bed.row(f"{what}, snapshot", beside=f"{what}, virtme-ng", at_least=5)
        yield bed.row(f"{what}, virtme-ng")


def can_vng(bed: Bed, kernel: Kernel) -> bool:
    """Whether virtme-ng runs a command there. What it makes only once, it makes now."""
    folder = bed.place / kernel.release
    if kernel.modules is not None:
        # it finds modules by their aliases, and makes that list where there is none of dependencies either
        lists = shutil.ignore_patterns("modules.dep*")
        shutil.copytree(kernel.modules, folder / "lib/modules" / kernel.release, symlinks=True, ignore=lists)
    folder.mkdir(exist_ok=True)
    shutil.copy(kernel.image, folder)
    if problem := run(theirs(bed, kernel, COMMANDS[0])):
        say(f"virtme-ng does not run {kernel.label}: {problem}")
    return not problem


def ready(bed: Bed) -> Iterator[str]:
    """To the moment in which the first scenario starts."""
    scenarios = len(collect(Selection()))  # remembered from here on, as in a matrix
    for _ in range(bed.rounds):
        for kernel, name in zip(bed.kernels, bed.names, strict=True):
            cell = Cell(kernel.label, name, shares=scenarios)  # one of them
            drop_snapshots()
            first_scenario(bed, cell, "cold")
            first_scenario(bed, cell, "snapshot")
    for kernel in bed.kernels:
        yield bed.row(f"{kernel.label}: first scenario, cold", at_most=8)
        yield bed.row(f"{kernel.label}: first scenario, snapshot")
        yield bed.row(f"{kernel.label}: of it since QEMU's start", at_most=1.5)


def first_scenario(bed: Bed, cell: Cell, how: str) -> None:
    begin = time.perf_counter()
    starts: list[float] = []
    result = run_cell(cell, lambda told: starts.append(time.perf_counter() - begin - told.seconds))
    what = f"{cell.label}: first scenario, {how}"
    if not starts or result.guest.ready is None:
        say(f"{what}: {result.guest.state}: {result.guest.why or result.error}")
        return
    bed.times[what].append(starts[0])
    if how == "snapshot":
        bed.times[f"{cell.label}: of it since QEMU's start"].append(result.guest.ready)


def contract(bed: Bed) -> Iterator[str]:
    whats = [f"{bed.kernels[-1].label}: testbed check, {how}" for how in ("cold", "snapshot")]
    for what in whats * bed.rounds:
        if what == whats[0]:
            drop_snapshots()
        bed.measure(what, ours("check", "--kernel", bed.names[-1]))
    yield from (bed.row(what, at_most=40) for what in whats)


def matrix(bed: Bed) -> Iterator[str]:
    say(f"kernels: {' '.join(bed.many)}")
    named = [word for name in bed.many for word in ("--kernel", name)]
    whats = [f"testbed matrix, {len(bed.many)} kernels, {how}" for how in ("cold", "snapshots")]
    drop_snapshots()
    for what in whats:
        bed.measure(what, ours("matrix", *named, "--jobs", "2"))
    yield from (bed.row(what, at_most=240 if len(bed.many) == MANY else 0) for what in whats)


def initramfs(bed: Bed) -> Iterator[str]:
    """In a process of its own each time, as nothing of it is to be remembered."""
    what = "initramfs, nothing changed"
    for name in bed.names * (bed.rounds * INITRAMFS_EACH):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            bed.times[what].append(pool.submit(made_initramfs, name).result())
    yield bed.row(what, at_most=0.5)


def made_initramfs(name: str) -> float:
    kernel = find_kernels([name])[0]
    begin = time.perf_counter()
    system = find_system(own_objects())
    system.digest()
    base(system)
    system.own_archive()
    overlay(kernel)
    return time.perf_counter() - begin


def many_kernels(count: int) -> list[str]:
    """The newest of each series, then the next of each, newest series first."""
    oldest, *_, newest = every_series()
    by_series: defaultdict[str, list[str]] = defaultdict(list)
    for version in reversed(versions_between(oldest, newest)):
        by_series[series(version)].append(version)
    return [each for rank in zip_longest(*by_series.values()) for each in rank if each is not None][:count]


def vng_words(named: str, kernel: Kernel) -> list[str]:
    found = shutil.which(named)
    if found is None:
        say(f"no {named}: nothing to compare commands with (virtme-ng; it needs virtiofsd, kmod and udev)")
        return []
    lean = ["--disable-kvm", "--qemu-opts=-cpu qemu64,+rdrand"]
    emulated = accelerator(kernel.image).name == "tcg"
    return [str(Path(found).absolute()), *(lean if emulated else ()), "--append", LEAN]


@contextmanager
def own_snapshots() -> Iterator[Path]:
    """A cache whose snapshots are our own, and whatever else is in it everybody's."""
    root, place = cache_root(), side_dir("drafts") / "benchmark"
    with locked("benchmark"):
        shutil.rmtree(place, ignore_errors=True)  # of one that was killed
        (place / "store").mkdir(parents=True)
        for shared in (*root.iterdir(), *(root / "store").iterdir()):
            if shared.name not in {"store", "drafts", "snapshots"}:
                (place / shared.relative_to(root)).symlink_to(shared)
        os.environ["TESTBED_CACHE"] = str(place)  # until this process ends, and for those that it starts
        try:
            yield place
        finally:
            shutil.rmtree(place)


PARTS = {part.__name__: part for part in (commands, ready, contract, matrix, initramfs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART[,PART…]")
    parser.add_argument("--kernel", action="append", metavar="V", help=f"or else {' '.join(KERNELS)}")
    parser.add_argument("--rounds", type=int, default=3, help="of all but the matrix, which is run once")
    parser.add_argument("--many", type=int, default=MANY, metavar="N", help="kernels of the matrix")
    parser.add_argument("--vng", default="vng", metavar="FILE", help="virtme-ng's program")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: {', '.join(PARTS)}")
    names = list(dict.fromkeys(exact(name) for name in arguments.kernel or KERNELS))
    many = many_kernels(arguments.many) if "matrix" in chosen else []
    kernels = find_kernels([*names, *many])[: len(names)]  # fetched now, and what all guests share is made
    base(find_system(own_objects()))
    vng = vng_words(arguments.vng, kernels[0]) if "commands" in chosen else []
    measured = fingerprint()
    with own_snapshots() as place:
        bed = Bed(kernels, names, arguments.rounds, vng, many, place)
        for part in chosen:
            rows = list(PARTS[part](bed))
            say(f"{f'{part} (s)':48}{'median':>9}  {'(min–max)':16}{'n':>3}{'faster':>8}  target")
            say("\n".join(rows) + "\n")
            if fingerprint() != measured:  # snapshots were made anew where none should have been
                raise SystemExit("the testbed has been changed meanwhile: these figures mean nothing")
    if arguments.json:
        arguments.json.write_text(json.dumps(bed.times))


if __name__ == "__main__":
    main()
