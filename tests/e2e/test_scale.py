"""Many hosts: what each one takes does not grow with their number, and all of them connect."""

from __future__ import annotations

import os
import resource
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from socket import socket

import pytest

from testbed.acquired import ACQUIRED
from testbed.errors import MachineError
from testbed.kernel import descriptors, netlink
from testbed.kernel.netlink import Message
from testbed.lab import lab as lab_module
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.topology.load import load_topology
from testbed.topology.model import Topology
from tests.conftest import Run

PAIRS = 30
"""Of the lab in the normal run: more hosts than one request to the spawner has room for."""


def scale(pairs: int) -> Topology:
    return load_topology("scale", {"client": pairs, "server": pairs})


class Taken:
    """Counts what labs take while it is told to listen: a hook of ``sys.audit`` cannot be removed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.listens = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.listens and event == ACQUIRED:
            self.counts[str(arguments[0])] += 1

    def by(self, bench: Bench, pairs: int) -> Mapping[str, int]:
        self.counts.clear()
        topology = scale(pairs)
        self.listens = True
        try:
            with Lab(bench, topology):
                self.listens = False
                return Counter(self.counts)
        finally:
            self.listens = False


@pytest.fixture(scope="module")
def taken() -> Taken:
    return Taken()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (their number alone)


def connect_all(lab: Lab, pairs: Sequence[int]) -> None:
    """Each client to its server, in both families."""
    for number in pairs:
        client, server = lab[f"client-{number}"], lab[f"server-{number}"]
        for family in (Family.V4, Family.V6):
            with server.listen(family.listener) as listener:
                port = listener.getsockname()[1]
                with (
                    client.connect(server.address(family.version), port) as sock,
                    listener.accept()[0] as accepted,
                ):
                    assert accepted.getpeername() == sock.getsockname()


def test_sixty_hosts_connect(bench: Bench) -> None:
    before = open_descriptors()
    with Lab(bench, scale(PAIRS)) as lab:
        assert (open_descriptors() - before - 2) / (2 * PAIRS) == lab_module._DESCRIPTORS
        connect_all(lab, range(1, PAIRS + 1))
    assert open_descriptors() == before


def test_a_pair_more_takes_the_same_again(bench: Bench, taken: Taken) -> None:
    """By counts, which are the same on any machine: 4, 8 and 12 pairs."""
    few, more, most = (taken.by(bench, pairs) for pairs in (4, 8, 12))
    grown = {kind: count - few[kind] for kind, count in more.items()}
    assert grown["namespace"] == grown["cgroup"] == 8
    assert {kind: count - more[kind] for kind, count in most.items()} == grown


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What a lab's own code sends to the kernel: ``packets``, and the ``messages`` in them."""
    counted: Counter[str] = Counter()
    execute = netlink.execute

    def count(sock: socket, messages: Sequence[Message]) -> list[bytes]:
        counted.update(packets=1, messages=len(messages))
        return execute(sock, messages)

    monkeypatch.setattr(lab_module, "execute", count)
    return counted


def test_a_pair_more_is_told_the_kernel_in_as_many_words(bench: Bench, packets: Counter[str]) -> None:
    found = []
    for pairs in (4, 8, 12):
        packets.clear()
        with Lab(bench, scale(pairs)):
            found.append((packets["packets"] / pairs, packets["messages"] / pairs))
    assert found[0] == found[1] == found[2]
    assert found[0][0] == 2


@pytest.fixture
def limits() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lab_takes_its_room_for_descriptors(bench: Bench, limits: None) -> None:  # noqa: ARG001
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 40, hard))
    with Lab(bench, scale(10)) as lab:
        connect_all(lab, [1, 10])


def test_where_there_is_no_room_it_says_so() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(MachineError, match=rf"make a lab of many: EMFILE .*{hard} open files more"):
        descriptors.make_room("make a lab of many", hard)


def test_a_person_is_told_in_a_line(testbed_command: Run) -> None:
    counts = ("--count", "client=40", "--count", "server=40", "--program-set", "none")
    done = testbed_command("up", "scale", "--name", "too-large", *counts, prefix=("prlimit", "--nofile=200"))
    assert done.returncode == 3
    assert "cannot make a lab of 80 hosts: EMFILE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_thousand_hosts_connect(bench: Bench) -> None:
    with Lab(bench, scale(500)) as lab:
        connect_all(lab, range(1, 501))


@pytest.mark.long
def test_two_hundred_labs_at_once(bench: Bench) -> None:
    with ExitStack() as stack:
        labs = [stack.enter_context(Lab(bench, scale(1))) for _ in range(200)]
        for lab in labs:
            connect_all(lab, [1])
