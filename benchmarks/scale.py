"""How set-up grows with the number of hosts, and what a host takes of the machine.

usage: sudo .venv/bin/python -m benchmarks.scale [--pairs N,N,…] [--labs N] [--json FILE]

Each size is one lab of so many pairs (the topology ``scale``); ``--labs`` is so many labs of one pair,
all up at once. Set-up is from the topology's text to hosts that are ready to connect; then as many
pairs as there are, at most 50, spread over the lab, connect. Memory is what is there with the lab and was
not before: brokers and spawner by their proportional share (PSS), this process by its own pages, the
kernel by what MemAvailable lost besides. Times are wall times in milliseconds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed.data import data_dir
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.topology.load import load_topology, read_topology

PAIRS = (1, 10, 50, 200, 500)
MOST_CONNECTED = 50


@dataclass(frozen=True)
class Size:
    """What one size took. Milliseconds; KiB a host; numbers of this process and of all brokers."""

    hosts: int
    labs: int
    read: float
    up: float
    down: float
    connect: float
    brokers_kib: float
    spawner_kib: float
    own_kib: float
    kernel_kib: float
    descriptors: float
    threads: int

    @property
    def up_of_a_pair(self) -> float:
        return 2 * (self.read + self.up) / self.hosts

    @property
    def kib_of_a_host(self) -> float:
        return self.brokers_kib + self.spawner_kib + self.own_kib + self.kernel_kib


@dataclass(frozen=True)
class _Memory:
    """KiB: of all brokers, the spawner, this process's own pages; and what the machine has left."""

    brokers: int
    spawner: int
    own: int
    available: int

    @classmethod
    def now(cls, bench: Bench, hosts: Sequence[Host]) -> _Memory:
        gc.collect()
        brokers = sum(_field(f"/proc/{host.namespace.pid}/smaps_rollup", "Pss") for host in hosts)
        spawner = _field(f"/proc/{bench.spawner.pid}/smaps_rollup", "Pss")
        own = _field("/proc/self/smaps_rollup", "Private_Dirty")
        return cls(brokers, spawner, own, _field("/proc/meminfo", "MemAvailable"))


def _field(path: str, name: str) -> int:
    for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)


def _in_directory(path: str) -> int:
    return len(os.listdir(path))  # noqa: PTH208 (as many as there are, whatever they are)


def _connect(pairs: Sequence[tuple[Host, Host]]) -> float:
    """Milliseconds for a connection, of both families in turn."""
    start = time.perf_counter()
    for number, (client, server) in enumerate(pairs):
        family = (Family.V4, Family.V6)[number % 2]
        with server.listen(family.listener) as listener:
            port = listener.getsockname()[1]
            with client.connect(server.address(family.version), port), listener.accept()[0]:
                pass
    return 1000 * (time.perf_counter() - start) / len(pairs)


def _spread(pairs: Sequence[tuple[Host, Host]]) -> list[tuple[Host, Host]]:
    step = max(len(pairs) // MOST_CONNECTED, 1)
    return [*pairs[::step][: MOST_CONNECTED - 1], pairs[-1]]


def _pairs_of(lab: Lab) -> list[tuple[Host, Host]]:
    names = [name for name in lab.hosts if name.startswith("client")]
    return [(lab[name], lab[name.replace("client", "server")]) for name in names]


def measure(bench: Bench, pairs: int, labs: int) -> Size:
    """One size: so many labs at once, each of so many pairs."""
    descriptors = _in_directory("/proc/self/fd")
    with ExitStack() as stack:
        before = _Memory.now(bench, [])
        start = time.perf_counter()
        # another name, so that nothing is known of it from before
        text = (data_dir("topologies") / "scale.yaml").read_text(encoding="utf-8")
        counts = {"client": pairs, "server": pairs}
        topology = read_topology(f"{text}\n# {pairs} {labs}\n", "scale.yaml", counts)
        read = time.perf_counter() - start
        start = time.perf_counter()
        made = [stack.enter_context(Lab(bench, topology)) for _ in range(labs)]
        up = time.perf_counter() - start
        hosts = [host for lab in made for host in lab.hosts.values()]
        after = _Memory.now(bench, hosts)
        opened = _in_directory("/proc/self/fd") - descriptors
        threads = sum(_in_directory(f"/proc/{host.namespace.pid}/task") for host in hosts)
        connect = _connect(_spread([pair for lab in made for pair in _pairs_of(lab)]))
        start = time.perf_counter()
    down = time.perf_counter() - start
    processes = after.brokers + after.spawner - before.spawner + after.own - before.own
    count = len(hosts)
    return Size(
        hosts=count,
        labs=labs,
        read=1000 * read,
        up=1000 * up,
        down=1000 * down,
        connect=connect,
        brokers_kib=after.brokers / count,
        spawner_kib=(after.spawner - before.spawner) / count,
        own_kib=(after.own - before.own) / count,
        kernel_kib=(before.available - after.available - processes) / count,
        descriptors=opened / count,
        threads=threads,
    )


HEAD = (
    f"{'hosts':>6} {'labs':>5} {'read':>7} {'up':>8} {'a pair':>7} {'down':>7} {'connect':>8}"
    f" | {'brokers':>8} {'spawner':>8} {'own':>6} {'kernel':>7} {'KiB/host':>9}"
    f" | {'fd/host':>7} {'threads':>7}"
)


def line(size: Size) -> str:
    return (
        f"{size.hosts:6} {size.labs:5} {size.read:7.1f} {size.up:8.1f} {size.up_of_a_pair:7.2f}"
        f" {size.down:7.1f} {size.connect:8.2f}"
        f" | {size.brokers_kib:8.0f} {size.spawner_kib:8.1f} {size.own_kib:6.0f} {size.kernel_kib:7.0f}"
        f" {size.kib_of_a_host:9.0f} | {size.descriptors:7.1f} {size.threads:7}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", default=",".join(map(str, PAIRS)), help="pairs in one lab, by commas")
    parser.add_argument("--labs", type=int, default=200, help="labs of one pair, up at once; 0 for none")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sizes = []
    with Bench() as bench:
        with Lab(bench, load_topology("pair")):
            sys.stdout.write(f"{HEAD}\n")  # and what is imported for the first lab is there
        wanted = [(int(pairs), 1) for pairs in arguments.pairs.split(",")]
        for pairs, labs in [*wanted, *([(1, arguments.labs)] if arguments.labs else [])]:
            sizes.append(measure(bench, pairs, labs))
            sys.stdout.write(f"{line(sizes[-1])}\n")
            sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(size) for size in sizes]))


if __name__ == "__main__":
    main()
