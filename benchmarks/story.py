"""What recording costs: the contract with and without, and ten thousand connections taken down.

usage: sudo .venv/bin/python -m benchmarks.story [--rounds N] [--connections N] [--json FILE]

The contract is run whole with ``--record off``, ``failures`` and ``all`` in turn, so that a machine that
slows down slows all of it. Then connections are made and closed one after the other, recorded by every
witness: nothing may be missing of them. Times are wall times in seconds; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from testbed.lab.bench import Bench
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.observe.capture import CaptureProgram
from testbed.observe.events import Kind, Story
from testbed.observe.recorder import Recorder
from testbed.observe.states import StatesProgram
from testbed.observe.tap import TapProgram
from testbed.topology.load import load_topology

MODES = ("off", "failures", "all")
SEGMENTS = 6  # SYN, SYN-ACK, ACK, FIN, FIN, ACK; a pure ACK of the first FIN may come with the second


def contract_seconds(mode: str) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "testbed", "check", "--record", mode]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def recorded(connections: int) -> tuple[Story, dict[str, float]]:
    """The story of so many connections, and how long a plain and a recorded one took (microseconds)."""
    with ExitStack() as stack:
        bench = stack.enter_context(Bench())
        taps = stack.enter_context(TapProgram())
        capture = stack.enter_context(CaptureProgram())
        states = stack.enter_context(StatesProgram())
        lab = stack.enter_context(Lab(bench, load_topology("pair")))
        took = {"plain": _connect(lab, connections // 10)}
        tap = stack.enter_context(taps.tap(lab))
        with Recorder(lab, tap, capture=capture, states=states) as recorder:
            took["recorded"] = _connect(lab, connections)
            lab.settle()
            start = time.perf_counter()
            story = recorder.story("benchmark", f"{connections} connections", "passed")
            took["told"] = 1e6 * (time.perf_counter() - start) / connections
    return story, took


def _connect(lab: Lab, count: int) -> float:
    pair = Pair(lab)
    with pair.listen() as listener:
        start = time.perf_counter()
        for _ in range(count):
            pair.connect(listener=listener).close()
        return 1e6 * (time.perf_counter() - start) / count


def missing(story: Story, connections: int) -> list[str]:
    """What is not in the story and must be; nothing of a whole one."""
    told = [each for each in story.connections if each.client and each.server]
    found = [f"{len(told)} connections of {connections}"] if len(told) < connections else []
    short: Counter[str] = Counter()
    for each in told:
        kinds = Counter(event.kind for event in each.events)
        short["segments"] += kinds[Kind.SEGMENT] < SEGMENTS
        short["callbacks"] += kinds[Kind.CALLBACK] < 2
        short["calls"] += kinds[Kind.CALL] < 4
        short["states"] += kinds[Kind.STATE] < 8
    found += [f"{count} connections without all their {what}" for what, count in short.items() if count]
    return [*found, *story.lost]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for number in range(-1, arguments.rounds):  # one to warm up
        for mode in MODES:
            seconds = contract_seconds(mode)
            if number >= 0:
                times[mode].append(seconds)
    lines = [
        f"{'the contract, --record':28}{'median':>10}{'min':>10}{'max':>10}   (s, n = {arguments.rounds})"
    ]
    base = statistics.median(times["off"]) if arguments.rounds else 0
    for mode, each in times.items():
        if each:
            median = statistics.median(each)
            more = "" if mode == "off" else f"   {100 * (median / base - 1):+.0f} %"
            lines.append(f"  {mode:26}{median:10.2f}{min(each):10.2f}{max(each):10.2f}{more}")
    story, took = recorded(arguments.connections)
    events = sum(1 for _ in story.events())
    lines.append(
        f"{arguments.connections} connections: {events} events; each {took['plain']:.0f} µs plain, "
        f"{took['recorded']:.0f} µs recorded, {took['told']:.0f} µs to tell"
    )
    lacking = missing(story, arguments.connections)
    lines += [f"MISSING: {words}" for words in lacking] or ["nothing was lost"]
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        result = {"contract": times, "connection_us": took, "events": events, "missing": lacking}
        arguments.json.write_text(json.dumps(result))
    sys.exit(bool(lacking))


if __name__ == "__main__":
    main()
