"""Section `load`: the reference set from ELF objects to attached programs, by the testbed and by others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.load import BCC_EVERY, Bed, by_bcc, by_bpftool, by_c, by_elf, make_bed, worker_start
from benchmarks.measure import Contender, Limit, Options, Prepared, Row, Section, Taken

ROWS = (
    Row("load.c", "the same in C with libbpf", "ms", short="C"),
    Row("load.elf", "testbed: load and attach", "ms", "load.c", short="testbed"),
    Row("load.elf load", "of it load_objects()", "ms", "load.c"),
    Row("load.bpftool", "bpftool prog loadall, cgroup attach", "ms", "load.elf"),
    Row("load.bcc", "testbed: by bcc, from C source", "ms", "load.elf"),
    Row("load.worker", "a loader to its first answer", "ms"),
)
NO_BPFTOOL = "not installed: apt-get install bpftool"


def prepare(_options: Options, stack: ExitStack) -> Prepared:
    bed = make_bed(stack)
    missing = {} if bed.bpftool else {"load.bpftool": NO_BPFTOOL}
    contenders = [
        Contender("c", _taking(by_c, bed)),
        Contender("elf", _taking(by_elf, bed)),
        Contender("bpftool", _taking(by_bpftool, bed)),
        Contender("worker", _taking(worker_start, bed), 2),
        Contender("bcc", _taking(by_bcc, bed), BCC_EVERY),
    ]
    return Prepared(contenders, missing)


def _taking(measure: Callable[[dict[str, list[float]], Bed], None], bed: Bed) -> Callable[[], Taken]:
    def run() -> Taken:
        times: defaultdict[str, list[float]] = defaultdict(list)
        measure(times, bed)
        return {f"load.{name}": values for name, values in times.items()}

    return run


SECTIONS = (
    Section(
        "load",
        "The reference set, from ELF objects: loaded and attached",
        ROWS,
        prepare,
        quick=Limit(20, 2.5),
        whole=Limit(60, 25),
    ),
)
