"""Section `rate`: connections a second, one after the other, by a C loop and by the testbed's sockets."""

from __future__ import annotations

import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from benchmarks.asked import HERE, compiled
from benchmarks.measure import Contender, Limit, Options, Prepared, Row, Section, Taken, Target
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.program_set import ProgramSet
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.reference import build_reference
from testbed.lab.bench import Bench
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.lab.sockets import accept, supply
from testbed.observe.tap import Tap, TapProgram
from testbed.topology.load import load_topology

COUNT = 2048  # connections of a lab: its client has 28,000 ports, and each is in TIME_WAIT then
BATCH = 64
_AT_LEAST = Target("ratio", at_least=0.8)

ROWS = (
    Row("rate.c", "C loop", "/s", short="C"),
    Row("rate.plain", "plain Python sockets, a process on the host", "/s", "rate.c"),
    Row("rate.testbed", "testbed's sockets, by supply()", "/s", "rate.c", _AT_LEAST),
    Row("rate.single", "testbed's sockets, asked for one by one", "/s", "rate.c"),
    Row("rate.pair", "Pair.connect()", "/s", "rate.c"),
    Row("rate.set.c", "C loop, program set", "/s", "rate.c", short="C"),
    Row("rate.set.testbed", "testbed's sockets, program set", "/s", "rate.set.c", _AT_LEAST, short="without"),
    Row("rate.set.records", "… its records read in batches", "/s", "rate.set.testbed"),
    Row("rate.set.tap", "… and the tap, read and decoded in batches", "/s", "rate.set.testbed"),
    Row("rate.set.woken", "… and the tap, a thread woken by each event", "/s", "rate.set.testbed"),
    Row("rate.cpu.c", "CPU time of a connection: C loop", "µs", short="C"),
    Row("rate.cpu.plain", "CPU time of a connection: plain Python sockets", "µs", "rate.cpu.c"),
    Row("rate.cpu.testbed", "CPU time of a connection: testbed's sockets", "µs", "rate.cpu.c"),
)


class Took(NamedTuple):
    """What ``COUNT`` connections took, in nanoseconds: by the clock, and of the calling thread's CPU time."""

    clock: int
    cpu: int

    @property
    def rate(self) -> list[float]:
        return [COUNT * 1e9 / self.clock]

    @property
    def cpu_each(self) -> list[float]:
        return [self.cpu / 1e3 / COUNT]


class Bed:
    """What the contenders stand on; each measures in a lab of its own."""

    def __init__(self, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.c = [str(compiled("rate", folder))]
        self.plain = [sys.executable, "-I", "-S", str(HERE / "rate_plain.py")]
        self._bench = stack.enter_context(Bench())
        self._topology = load_topology("pair")
        loader = stack.enter_context(ObjectLoader())
        self.program_set: ProgramSet = stack.enter_context(load_objects(loader, build_reference(folder)))
        self._taps = stack.enter_context(TapProgram())

    @contextmanager
    def pair(self, *, at_work: bool = False) -> Iterator[Pair]:
        """Client and server of a new lab, with the program set if it is to be at work."""
        with Lab(self._bench, self._topology) as lab, ExitStack() as stack:
            if at_work:
                stack.enter_context(Mesh(self.program_set, lab)).manage(*lab.hosts.values())
            yield Pair(lab)

    def tap(self, pair: Pair) -> Tap:
        return self._taps.tap(pair.lab)


def by_process(pair: Pair, words: Sequence[str]) -> Took:
    """By a process on the client's host that was given the server's listener."""
    with ExitStack() as stack:
        listener = stack.enter_context(pair.listen())
        listener.setblocking(True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        where = [str(pair.server.address(4)), str(listener.getsockname()[1])]
        with theirs:
            command = pair.client.spawn(
                [*words, *where],
                stdin=theirs.fileno(),
                stdout=sys.stderr.fileno(),
                stderr=sys.stderr.fileno(),
            )
        stack.callback(command.close)
        stack.callback(command.kill)
        socket.send_fds(ours, [b"."], [listener.fileno()])
        ours.send(b"%d" % COUNT)
        clock, cpu = ours.recv(64).split()
    return Took(int(clock), int(cpu))


def by_testbed(pair: Pair, meanwhile: Callable[[], object] | None = None, *, single: bool = False) -> Took:
    """By plain calls on sockets that the testbed made; ``meanwhile`` after each batch of them."""
    client = pair.client
    with pair.listen() as listener:
        listener.settimeout(None)
        address = (str(pair.server.address(4)), listener.getsockname()[1])
        sockets = (client.socket() for _ in range(COUNT)) if single else supply(client, COUNT)
        start, cpu = time.perf_counter_ns(), time.thread_time_ns()
        for number, sock in enumerate(sockets, 1):
            sock.connect(address)
            server, _ = accept(listener)
            sock.close()
            server.close()
            if meanwhile is not None and not number % BATCH:
                meanwhile()
        cpu = time.thread_time_ns() - cpu
        return Took(time.perf_counter_ns() - start, cpu)


def by_pair(pair: Pair) -> Took:
    """As a test would write it."""
    with pair.listen() as listener:
        start, cpu = time.perf_counter_ns(), time.thread_time_ns()
        for _ in range(COUNT):
            pair.connect(listener=listener).close()
        cpu = time.thread_time_ns() - cpu
        return Took(time.perf_counter_ns() - start, cpu)


@contextmanager
def woken(tap: Tap) -> Iterator[None]:
    """A thread that reads the tap whenever there is an event, until the block ends."""
    ours, theirs = socket.socketpair()
    poll = select.poll()
    poll.register(tap.fileno(), select.POLLIN)
    poll.register(theirs, select.POLLHUP)

    def read() -> None:
        while theirs.fileno() not in [fd for fd, _ in poll.poll()]:
            tap.taken()  # whether any was lost or not: what counts here is the price
            tap.forget()

    with theirs:
        thread = Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            ours.close()
            thread.join()


def _read_and_forget(tap: Tap) -> Callable[[], None]:
    def read() -> None:
        tap.read()
        tap.forget()

    return read


def _of(key: str, took: Took) -> Taken:
    cpu_key = f"rate.cpu.{key.removeprefix('rate.')}"
    cpu = {cpu_key: took.cpu_each} if any(row.key == cpu_key for row in ROWS) else {}
    return {key: took.rate, **cpu}


def prepare(_options: Options, stack: ExitStack) -> Prepared:
    bed = Bed(stack)
    rings = list(bed.program_set.rings.values())

    def records(pair: Pair) -> Took:
        return by_testbed(pair, lambda: [ring.reader.take() for ring in rings])

    def tapped(pair: Pair) -> Took:
        with bed.tap(pair) as tap:
            return by_testbed(pair, _read_and_forget(tap))

    def tapped_at_once(pair: Pair) -> Took:
        with bed.tap(pair) as tap, woken(tap):
            return by_testbed(pair)

    def contender(key: str, take: Callable[[Pair], Took], every: int = 1) -> Contender:
        def run() -> Taken:
            with bed.pair(at_work=key.startswith("rate.set.")) as pair:
                return _of(key, take(pair))

        return Contender(key, run, every)

    return Prepared(
        [
            contender("rate.c", lambda pair: by_process(pair, bed.c)),
            contender("rate.plain", lambda pair: by_process(pair, bed.plain)),
            contender("rate.testbed", by_testbed),
            contender("rate.single", lambda pair: by_testbed(pair, single=True), 2),
            contender("rate.pair", by_pair, 2),
            contender("rate.set.c", lambda pair: by_process(pair, bed.c)),
            contender("rate.set.testbed", by_testbed),
            contender("rate.set.records", records),
            contender("rate.set.tap", tapped),
            contender("rate.set.woken", tapped_at_once),
        ]
    )


SECTIONS = (
    Section(
        "rate",
        "Connections a second: connect, accept, close, one after the other over the same veth",
        ROWS,
        prepare,
        quick=Limit(5, 4, warm_up=1),
        whole=Limit(40, 45),
    ),
)
