"""How long a ready pair of hosts takes: this testbed, a C program that does the same, `ip` commands.

usage: sudo .venv/bin/python -m benchmarks.pair [--runs N] [--json FILE]

Everything is measured in turn in one run, so that a machine that slows down slows all of it. Times
are wall times in milliseconds; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.topology.load import load_topology

HERE = Path(__file__).resolve().parent

IP_COMMANDS = """
netns add NAME-client
netns add NAME-server
link add eth0 netns NAME-client type veth peer name eth0 netns NAME-server
-n NAME-client link set lo up
-n NAME-server link set lo up
-n NAME-client link set eth0 up
-n NAME-server link set eth0 up
-n NAME-client addr add 10.77.0.1/24 dev eth0
-n NAME-server addr add 10.77.0.2/24 dev eth0
-n NAME-client addr add fd77::1/64 dev eth0 nodad
-n NAME-server addr add fd77::2/64 dev eth0 nodad
-n NAME-client route add default via 10.77.0.2
-n NAME-server route add default via 10.77.0.1
-n NAME-client route add default via fd77::2
-n NAME-server route add default via fd77::1
"""


class CPair:
    """The C program: compiled once, asked for a pair by a line on its stdin."""

    def __init__(self, bench: Bench, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        subprocess.run(
            ["clang", "-O2", "-o", folder / "pair", HERE / "pair.c"],  # noqa: S607
            check=True,
        )
        self._process = stack.enter_context(
            subprocess.Popen(
                [folder / "pair", bench.cgroup], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(self._process.kill)

    def milliseconds(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()) / 1e6


def ip_pair(name: str) -> float:
    """The same topology by one `ip` command after the other; no cgroups, no brokers."""
    commands = [["ip", *line.replace("NAME", name).split()] for line in IP_COMMANDS.split("\n") if line]
    start = time.perf_counter()
    try:
        for command in commands:
            subprocess.run(command, check=True)
        return 1000 * (time.perf_counter() - start)
    finally:
        for host in ("client", "server"):
            subprocess.run(["ip", "netns", "delete", f"{name}-{host}"], check=False)  # noqa: S607


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times.append(1000 * (time.perf_counter() - start))


def measure(runs: int) -> dict[str, list[float]]:
    """The times of each thing, in milliseconds."""
    times: dict[str, list[float]] = {
        name: [] for name in ("testbed", "c", "ip", "first v4", "first v6", "take down")
    }
    topology = load_topology("pair")
    with ExitStack() as stack:
        bench = stack.enter_context(Bench())
        c_pair = CPair(bench, stack)
        for run in range(-2, runs):  # two to warm up
            kept = times if run >= 0 else {name: [] for name in times}
            one_round(kept, lambda: Lab(bench, topology), c_pair, f"bench-pair-{run}")
    return times


def one_round(times: dict[str, list[float]], make: Callable[[], Lab], c_pair: CPair, name: str) -> None:
    with timed(times["testbed"]):
        lab = make()
    # which family comes first takes turns: only the first connection is the first
    first, second = (Family.V4, Family.V6) if len(times["c"]) % 2 else (Family.V6, Family.V4)
    first_connect(times, lab, first)
    with timed(times["take down"]):
        lab.close()
    times["c"].append(c_pair.milliseconds())
    times["ip"].append(ip_pair(name))
    with make() as lab:
        first_connect(times, lab, second)


def first_connect(times: dict[str, list[float]], lab: Lab, family: Family) -> None:
    """connect() alone: from the call to the established connection."""
    pair = Pair(lab, family)
    with pair.listen() as listener, pair.client_socket() as client:
        address = (str(pair.server.address(family.version)), listener.getsockname()[1])
        with timed(times[f"first {family.value}"]):
            client.connect(address)


def check_seconds(runs: int) -> list[float]:
    """`testbed check` as a whole process: imports, compilation and all scenarios."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "testbed", "check"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times


LABELS = {
    "testbed": "ready pair, testbed",
    "c": "ready pair, the same in C",
    "ip": "ready pair, `ip` commands",
    "take down": "taking it down",
    "first v4": "first connect, v4",
    "first v6": "first connect, v6",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    times = measure(arguments.runs)
    lines = [f"{'':28}{'median':>10}{'min':>10}{'max':>10}   (ms, n = {arguments.runs})"]
    for name, label in LABELS.items():
        each = times[name]
        lines.append(f"{label:28}{statistics.median(each):10.2f}{min(each):10.2f}{max(each):10.2f}")
    ours, c, ip = (statistics.median(times[name]) for name in ("testbed", "c", "ip"))
    lines.append(f"testbed / C: {ours / c:.2f}    `ip` / testbed: {ip / ours:.1f}")
    check = check_seconds(5)
    lines.append(f"testbed check, whole: median {statistics.median(check):.2f} s of 5")
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({**times, "check": [1000 * each for each in check]}))


if __name__ == "__main__":
    main()
