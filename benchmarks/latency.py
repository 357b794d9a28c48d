"""Section `latency`: from a callback in the kernel to its event in Python, through the tap."""

from __future__ import annotations

import select
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.asked import compiled
from benchmarks.measure import Contender, Limit, Options, Prepared, Row, Section, Taken
from testbed.lab.bench import Bench
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.observe.callbacks import Op
from testbed.observe.tap import Tap, TapProgram
from testbed.topology.load import load_topology

COUNT = 200  # connections a sample
_DEADLINE_MS = 10_000
ROWS = (
    Row("latency.back", "connect() is back: read at once, median", "µs", short="at once"),
    Row("latency.back.p99", "… 99th percentile", "µs", short="at once"),
    Row("latency.woken", "asleep in poll() meanwhile, median", "µs", "latency.back"),
    Row("latency.woken.p99", "… 99th percentile", "µs", "latency.back.p99"),
)


def percentile(values: list[float], part: float) -> float:
    """The value that such a part of all is not above."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def when_back(pair: Pair, tap: Tap) -> list[float]:
    """From ACTIVE_ESTABLISHED of each of our own connections to its `Callback`, in microseconds."""
    found = []
    with pair.listen() as listener:
        address = (str(pair.server.address(4)), listener.getsockname()[1])
        for _ in range(COUNT):
            with pair.client_socket() as client:
                tap.forget()
                client.connect(address)
                tap.read()
                found += _since_established(tap)
                listener.accept()[0].close()
    return found


def when_woken(pair: Pair, tap: Tap, program: Path) -> list[float]:
    """The same of connections that another process makes when it is asked to, while this one sleeps."""
    found: list[float] = []
    with ExitStack() as stack:
        listener = stack.enter_context(pair.listen())
        listener.setblocking(True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        words = [str(program), str(pair.server.address(4)), str(listener.getsockname()[1])]
        with theirs:
            err = sys.stderr.fileno()
            command = pair.client.spawn(words, stdin=theirs.fileno(), stdout=err, stderr=err)
        stack.callback(command.close)
        stack.callback(command.kill)
        socket.send_fds(ours, [b"."], [listener.fileno()])
        for _ in range(COUNT):
            tap.read()
            tap.forget()
            ours.send(b"1")
            found += _await_established(tap)
            ours.recv(64)
    return found


def _await_established(tap: Tap) -> list[float]:
    poll = select.poll()
    poll.register(tap.fileno(), select.POLLIN)
    while poll.poll(_DEADLINE_MS):
        tap.read()
        if found := _since_established(tap):
            return found
    raise TimeoutError("no ACTIVE_ESTABLISHED callback has come")


def _since_established(tap: Tap) -> list[float]:
    now = time.monotonic_ns()
    return [(now - each.time_ns) / 1e3 for each in tap.so_far() if each.op is Op.ACTIVE_ESTABLISHED][:1]


def prepare(_options: Options, stack: ExitStack) -> Prepared:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    program = compiled("rate", folder)
    bench = stack.enter_context(Bench())
    taps = stack.enter_context(TapProgram())
    topology = load_topology("pair")

    def measured(key: str, *, asleep: bool) -> Taken:
        with Lab(bench, topology) as lab, taps.tap(lab) as tap:
            pair = Pair(lab)
            found = when_woken(pair, tap, program) if asleep else when_back(pair, tap)
        return {key: [percentile(found, 0.5)], f"{key}.p99": [percentile(found, 0.99)]}

    return Prepared(
        [
            Contender("back", lambda: measured("latency.back", asleep=False)),
            Contender("woken", lambda: measured("latency.woken", asleep=True)),
        ]
    )


SECTIONS = (
    Section(
        "latency",
        f"From a callback in the kernel to its event in Python, of {COUNT} connections each",
        ROWS,
        prepare,
        quick=Limit(10, 1.5, warm_up=1),
        whole=Limit(40, 15),
    ),
)
