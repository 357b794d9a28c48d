"""A broker, or the spawner, is killed while a test uses it: that is told, and all of the lab goes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.errors import TestbedError, WaitExpired
from testbed.kernel import ownership
from testbed.kernel.cgroup import await_end, cgroup_root
from testbed.lab.bench import Bench
from testbed.lab.lab import Lab
from testbed.lab.wait import eventually
from testbed.topology.load import load_topology
from tests.faults.holdings import Holdings


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the test's own, so that what it holds is told apart from everybody else's."""
    monkeypatch.setattr(ownership, "REGISTRY", tmp_path)
    return tmp_path


@pytest.fixture
def made(registry: Path) -> Iterator[tuple[Bench, Lab]]:
    """A lab that everything is gone of after the test."""
    with ExitStack() as stack:
        bench = stack.enter_context(Bench(512))
        lab = stack.enter_context(Lab(bench, load_topology("pair")))
        root = stack.enter_context(cgroup_root())
        spawned = Holdings(bench.spawner.pid, registry, root)
        assert spawned.count()["process"] >= 3, "the spawner and two brokers"
        yield bench, lab
        stack.close()
        eventually(lambda: not spawned.left(), awaited=lambda: f"the end of {spawned.left()}")
        assert not any(path.exists() for path in spawned.cgroups)
        assert list(registry.iterdir()) == []
        spawned.close()


def make_a_socket(_bench: Bench, lab: Lab) -> None:
    lab["client"].socket()


def run_a_command(_bench: Bench, lab: Lab) -> None:
    lab["client"].run(["true"])


def set_a_sysctl(_bench: Bench, lab: Lab) -> None:
    lab["client"].namespace.sysctl({"net/ipv4/ip_forward": "1"})


def make_another_lab(bench: Bench, _lab: Lab) -> None:
    Lab(bench, load_topology("pair")).close()


def end(pid: int, *with_it: int) -> None:
    """Kills a process; returns when it has ended, and who ends with it."""
    with ExitStack() as stack:
        pidfds = [os.pidfd_open(each) for each in (pid, *with_it)]
        for pidfd in pidfds:
            stack.callback(os.close, pidfd)
        os.kill(pid, signal.SIGKILL)
        assert all(await_end(pidfd, time.monotonic() + 10) for pidfd in pidfds)


ACTS = [make_a_socket, run_a_command, set_a_sysctl]


@pytest.mark.parametrize("act", ACTS)
def test_a_broker(made: tuple[Bench, Lab], act: Callable[[Bench, Lab], None]) -> None:
    bench, lab = made
    end(lab["client"].namespace.pid)
    with pytest.raises(TestbedError, match=r"the broker of client: it is gone\n.*was it killed\?"):
        act(bench, lab)
    with lab["server"].socket() as other:  # the other host is as it was
        assert other.family == socket.AF_INET


@pytest.mark.parametrize("act", [*ACTS, make_another_lab])
def test_the_spawner(made: tuple[Bench, Lab], act: Callable[[Bench, Lab], None]) -> None:
    """Its brokers end with it."""
    bench, lab = made
    end(bench.spawner.pid, lab["client"].namespace.pid)
    with pytest.raises(TestbedError, match=r"the (broker of client|spawner): it is gone\n.*was it killed\?"):
        act(bench, lab)


def test_a_broker_while_it_runs_a_command(made: tuple[Bench, Lab]) -> None:
    _, lab = made
    with Path(os.devnull).open("r+b") as nowhere:
        fd = nowhere.fileno()
        with lab["client"].spawn(["sleep", "1000"], stdin=fd, stdout=fd, stderr=fd) as command:
            os.kill(lab["client"].namespace.pid, signal.SIGKILL)
            with pytest.raises(WaitExpired, match="sleep 1000: its host is gone, and so is it"):
                command.wait(10)
