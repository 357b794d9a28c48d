"""What a run needs runs out: it says so by name and what to do, keeps its verdicts, and leaves nothing.

Each lack is real and the run's alone (`tests.faults.poverty`). A sample is in every run of the suite; the
whole sweep over each limit, step by step, is with ``--long``.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from testbed.errors import MachineError, TestbedError, machine_error, need_descriptors
from testbed.keeper import protocol
from testbed.keeper.listener import Listener
from testbed.kernel import broker
from tests.faults.poverty import Place, Poverty, controller, poor
from tests.faults.told import CHECK, UP, assert_clear, assert_clear_or_well, long, warm
from tests.objects import GPL, HEAD, compiled


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return warm(tmp_path)


def step(sample: Sequence[int], every: Sequence[int]) -> list[object]:
    """Each of them is a test; those that are no sample are long."""
    return [pytest.param(each, marks=() if each in sample else long) for each in sorted({*sample, *every})]


# Descriptors: each limit ends the run at another acquisition.


@pytest.mark.parametrize("most", step([24], range(6, 130)))
def test_descriptors_of_a_check(place: Place, most: int) -> None:
    ended = poor(place, Poverty(limits={"NOFILE": most}), *CHECK)
    assert_clear_or_well(ended, "EMFILE (Too many open files)", "ulimit -n")
    assert ended.code or most > 100
    assert "cannot run check:" not in ended.err, "somebody below knows better what was attempted"


@pytest.mark.parametrize("most", step([50], range(6, 130, 4)))
def test_descriptors_of_an_examination(place: Place, most: int) -> None:
    ended = poor(place, Poverty(limits={"NOFILE": most}), "doctor")
    assert_clear_or_well(ended, "EMFILE (Too many open files)", "ulimit -n")


@long
@pytest.mark.parametrize("most", range(6, 90))
def test_descriptors_of_a_lab_that_stays_up(place: Place, most: int) -> None:
    ended = poor(place, Poverty(limits={"NOFILE": most}), *UP, then=("down", "poor"))
    assert_clear_or_well(ended, "EMFILE (Too many open files)", "ulimit -n")


@long
@pytest.mark.parametrize("most", range(20, 160, 7))
def test_descriptors_of_workers(place: Place, most: int) -> None:
    ended = poor(place, Poverty(limits={"NOFILE": most}), *CHECK, "-n", "2")
    assert_clear_or_well(ended, "ulimit -n")


@long
@pytest.mark.parametrize("most", range(4, 40, 3))
def test_descriptors_of_a_compilation(place: Place, most: int) -> None:
    """Nothing is kept yet: clang and its threads take some too."""
    fresh = {"TESTBED_CACHE": str(place.root / "fresh")}
    assert_clear_or_well(poor(place, Poverty(limits={"NOFILE": most + 16}), *CHECK, env=fresh), "ulimit -n")


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """The limit is on the numbers: the lowest that is free becomes the first that there is not."""
    lowest = os.dup(0)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


def test_a_broker_is_told_of_descriptors_that_are_lost(ends: tuple[socket.socket, socket.socket]) -> None:
    """MSG_CTRUNC: the message comes, and it is known that what belonged to it did not."""
    broker.send(ends[0], ["words"], [0, 1])
    with no_descriptor_left(), pytest.raises(broker.Truncated) as caught:
        broker.receive(ends[1])
    assert caught.value.message == ["words"]
    broker.send(ends[0], ["next"])
    assert broker.receive(ends[1]) == (["next"], [])


def test_a_client_is_told_of_descriptors_that_are_lost(ends: tuple[socket.socket, socket.socket]) -> None:
    protocol.send(ends[0], {"value": 1}, [0, 1])
    with no_descriptor_left(), pytest.raises(MachineError, match="EMFILE") as caught:
        protocol.receive(ends[1])
    assert "ulimit -n" in caught.value.fix


def test_who_asks_a_keeper_without_descriptors_is_told_so(tmp_path: Path) -> None:
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        sock.bind(str(tmp_path / "sock"))
        sock.listen()
        client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        client.connect(str(tmp_path / "sock"))
        listener = stack.enter_context(closing(Listener(sock, "pair")))
        with no_descriptor_left():
            accepted = listener.accept()
            assert accepted is not None
            stack.enter_context(accepted[0])
            assert listener.fileno() == -1, "nobody more: there would be no descriptor to tell them by"
        assert accepted[1] is not None
        assert "EMFILE" in accepted[1].why
        listener.restore()
        assert listener.fileno() == sock.fileno()


def test_what_takes_descriptors_says_how_many() -> None:
    with no_descriptor_left(), pytest.raises(MachineError, match="it takes 7 more"):
        need_descriptors(7, "run")
    need_descriptors(7, "run")


# Processes and threads.


@contextmanager
def at_most(controlled: str, setting: str, most: str) -> Iterator[Poverty]:
    with controller(controlled, {setting: most}) as cgroup:
        if cgroup is None:
            pytest.skip(f"no {controlled} controller here")
        yield Poverty(cgroups=[cgroup])


@pytest.mark.parametrize("most", step([3], range(1, 9)))
def test_processes_of_a_check(place: Place, most: int) -> None:
    with at_most("pids", "pids.max", str(most)) as poverty:
        assert_clear_or_well(poor(place, poverty, *CHECK), "EAGAIN", "pids.max")


@long
@pytest.mark.parametrize("most", range(1, 9))
def test_processes_of_a_lab_that_stays_up(place: Place, most: int) -> None:
    with at_most("pids", "pids.max", str(most)) as poverty:
        assert_clear_or_well(poor(place, poverty, *UP, then=("down", "poor")), "EAGAIN", "pids.max")


@long
@pytest.mark.parametrize("most", [1, 2, 5, 9, 13, 17, 18, 24])
def test_processes_of_workers(place: Place, most: int) -> None:
    with at_most("pids", "pids.max", str(most)) as poverty:
        assert_clear_or_well(poor(place, poverty, *CHECK, "-n", "2"), "EAGAIN", "pids.max")


@long
@pytest.mark.parametrize("most", range(1, 12))
def test_processes_of_a_compilation(place: Place, most: int) -> None:
    with at_most("pids", "pids.max", str(most)) as poverty:
        fresh = {"TESTBED_CACHE": str(place.root / "fresh")}
        assert_clear_or_well(poor(place, poverty, *CHECK, env=fresh), "pids.max")


# Memory.


@long
@pytest.mark.parametrize("kind", ["AS", "DATA"])
@pytest.mark.parametrize("most", [20, 30, 40, 50, 60, 70, 80, 100, 120, 160])
def test_memory_of_a_process(place: Place, kind: str, most: int) -> None:
    ended = poor(place, Poverty(limits={kind: most << 20}), *CHECK)
    assert_clear_or_well(ended, "ENOMEM (Cannot allocate memory)", "ulimit -v")


@long
def test_memory_is_asked_for_before_anything_is_made(place: Place) -> None:
    assert_clear(poor(place, Poverty(limits={"AS": 80 << 20}), *CHECK), "ENOMEM", "it takes 64 MiB more")


@long
@pytest.mark.parametrize("most", [8, 24, 32, 48, 64, 72, 80, 100])
def test_memory_of_a_cgroup(place: Place, most: int) -> None:
    """The kernel kills who takes more (SIGKILL): what that leaves, the next start removes."""
    with at_most("memory", "memory.max", str(most << 20)) as poverty:
        ended = poor(place, poverty, *CHECK, then=("gc",))
    assert ended.code in {-9, 0, 3}, ended.told()
    if ended.code == -9:
        assert not ended.said
        assert not ended.left, ended.told()
    else:
        assert_clear_or_well(ended)


@long
def test_a_map_that_the_cgroup_has_no_memory_for(place: Place) -> None:
    text = f"""{HEAD}
struct {{ __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1 << 22); __type(key, __u32);
 __type(value, __u64[8]); }} enormous SEC(".maps");
SEC("sockops") int look(struct bpf_sock_ops *ctx)
{{ __u32 zero = 0; return bpf_map_lookup_elem(&enormous, &zero) != 0; }}
{GPL}"""
    path = compiled(place.out, "enormous", text)
    with at_most("memory", "memory.max", str(200 << 20)) as poverty:
        ended = poor(place, poverty, "load", str(path))
    assert_clear(ended, "the map enormous", "256 MiB", "which is 200 MiB", code=ended.code)
    assert ended.code in {1, 2, 3}


@long
def test_memory_that_cannot_be_locked_is_not_needed(place: Place) -> None:
    """Since Linux 5.11 the memory of BPF objects counts in the cgroup, before that against RLIMIT_MEMLOCK."""
    ended = poor(place, Poverty(limits={"MEMLOCK": 0}), *CHECK)
    assert_clear_or_well(ended, "ulimit -l")
    assert ended.code == 0 or tuple(map(int, os.uname().release.split(".")[:2])) < (5, 11)


def test_what_has_run_out_is_named_with_what_mends_it() -> None:
    for error, name, mends in (
        (OSError(24, "x"), "EMFILE", "ulimit -n"),
        (OSError(28, "x", "/proc/self"), "ENOSPC", "of /proc/self"),
        (MemoryError(), "ENOMEM", "memory limit"),
        (RuntimeError("can't start new thread"), "EAGAIN", "pids.max"),
        (ImportError("x.so: cannot open shared object file: Too many open files"), "EMFILE", "ulimit -n"),
    ):
        told = machine_error("run", error)
        assert name in told.why
        assert mends in told.fix
    by_others = TestbedError(
        "compile x", "could not open bpf map: y, error: Too many open files", "mend that line"
    )
    assert by_others.why.endswith("y, error: EMFILE (Too many open files)")
    assert "ulimit -n" in by_others.fix
