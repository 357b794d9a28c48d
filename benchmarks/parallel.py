"""What sharing the contract among processes gains, and the quick one: wall times, everything in turn.

usage: sudo .venv/bin/python -m benchmarks.parallel [--rounds N] [--json FILE]

Each round runs the contract in one process, in as many as there are CPUs (``-n auto``), and with ``--quick``;
each also with nothing recorded. Medians with least and most; ratios are of medians. Processor time beside it
is of the whole family of processes: what is more than in one process is the price of starting the others.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

KINDS: dict[str, tuple[str, ...]] = {
    "one process": (),
    "-n auto": ("-n", "auto"),
    "one process, --record off": ("--record", "off"),
    "-n auto, --record off": ("-n", "auto", "--record", "off"),
    "--quick": ("--quick",),
    "--quick, --record off": ("--quick", "--record", "off"),
    "--help": ("--help",),
}


class Took(NamedTuple):
    """Seconds: on the clock, and of processors."""

    wall: float
    processors: float


def measured(words: tuple[str, ...]) -> Took:
    """One run of ``testbed check`` in a fresh process. `CalledProcessError` where it did not pass."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "testbed", "check", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def table(took: dict[str, list[Took]]) -> str:
    """A line for each kind, and what one gains on another."""
    lines = [f"{'testbed check':28}{'median':>8}{'min':>8}{'max':>8}{'processors':>12}   (seconds)"]
    median = {}
    for kind, runs in took.items():
        wall = [each.wall for each in runs]
        median[kind] = statistics.median(wall)
        processors = statistics.median(each.processors for each in runs)
        lines.append(f"{kind:28}{median[kind]:8.2f}{min(wall):8.2f}{max(wall):8.2f}{processors:12.2f}")
    for more in ("", ", --record off"):
        gain = median[f"one process{more}"] / median[f"-n auto{more}"]
        lines.append(f"-n auto{more}: {gain:.2f} times as fast, on {len(os.sched_getaffinity(0))} CPUs")
    recording = 100 * (median["one process"] / median["one process, --record off"] - 1)
    lines.append(f"recording: {recording:+.0f} %")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    took: dict[str, list[Took]] = {kind: [] for kind in KINDS}
    for number in range(-1, arguments.rounds):  # one to warm up
        for kind, words in KINDS.items():
            one = measured(words)
            if number >= 0:
                took[kind].append(one)
    sys.stdout.write(f"{table(took)}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(took), encoding="utf-8")


if __name__ == "__main__":
    main()
