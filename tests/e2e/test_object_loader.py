"""The loader's process: its logs, its deadline, its end; and that both loaders make the same thing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from testbed.bpf.elf.file import ObjectError, read_object
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.maps import Map
from testbed.bpf.program_set import ProgramSet
from testbed.errors import MachineError, ProgramError
from testbed.kmesh.config import Config
from testbed.kmesh.profile import load_profile
from testbed.lab.wait import eventually
from tests.conftest import ROOT
from tests.machine import belongings, left_of
from tests.objects import AT_SOCKET, TEXTS, compiled, compiled_all, nothing_left, workers

LARGE = """
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1000);
	__type(key, __u32); __uint(value_size, 40000); } %s SEC(".maps");
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    texts = {
        "one": TEXTS["one"],
        "slow": TEXTS["slow"] + AT_SOCKET % "quick" + "{ return 1; }",
        "large": LARGE % "a",
        "sharing": LARGE % "a",
        "larger": LARGE % "b",
    }
    return compiled_all(tmp_path_factory.mktemp("objects"), texts)


@pytest.fixture
def loader() -> Iterator[ObjectLoader]:
    with nothing_left(), ObjectLoader() as made:
        yield made


def logs(loader: ObjectLoader, path: Path, level: int) -> dict[str, str]:
    with loader.load([read_object(path)], LoadOptions(log_level=level)) as reply:
        return {each["name"]: each["log"] for each in reply.replies[0]["programs"]}


@pytest.mark.long
def test_logs(loader: ObjectLoader, objects: dict[str, Path]) -> None:
    assert logs(loader, objects["slow"], 0) == {"slow": "", "quick": ""}
    statistics = logs(loader, objects["slow"], 4)
    assert all(log.startswith(("verification time", "processed")) for log in statistics.values())
    full = logs(loader, objects["slow"], 2)
    for name, log in full.items():
        first, *_, last = log.splitlines()
        assert first.startswith(("func#0", "0: R1=ctx", "Live regs", "reg type")), first
        assert last.startswith("processed"), f"{name}: the log is cut off"
        assert last.split()[1] == statistics[name].partition("processed ")[2].split()[0]
    assert len(full["slow"]) > 1 << 20 > len(full["quick"])


def test_the_process_may_die_between_loads(loader: ObjectLoader, objects: dict[str, Path]) -> None:
    for number in (signal.SIGKILL, signal.SIGSEGV):
        load_objects(loader, [objects["one"]]).close()
        worker = loader.pid
        os.kill(worker, number)
        with load_objects(loader, [objects["one"]]) as loaded:
            assert list(loaded.programs) == ["put"]
        assert worker != loader.pid
        assert worker not in workers()


def test_the_process_may_die_at_work(objects: dict[str, Path]) -> None:
    """It is stopped when it has been asked for something, so that it dies of that."""
    for number, words in (signal.SIGSEGV, "libbpf crashed on it"), (signal.SIGKILL, "killed the loader's"):
        with nothing_left(), ObjectLoader() as loader:
            worker = loader.pid
            eventually(lambda: loader.pid in workers(), awaited="the loader's process at work")
            os.kill(worker, signal.SIGSTOP)
            os.kill(worker, number)
            os.kill(worker, signal.SIGCONT)
            with pytest.raises((ProgramError, MachineError), match=words):
                loader.open([objects["one"]])
            assert len(loader.open([objects["one"]])) == 1


def test_the_deadline(objects: dict[str, Path]) -> None:
    with nothing_left(), ObjectLoader(deadline=0.01) as loader:
        with pytest.raises(ProgramError, match=r"still at it after 0\.01 s"):
            logs(loader, objects["slow"], 2)
        assert eventually(lambda: loader.pid in workers(), awaited="another process")


def test_ctrl_c_leaves_no_answer_behind(loader: ObjectLoader, objects: dict[str, Path]) -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    load_objects(loader, [objects["one"]]).close()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            logs(loader, objects["slow"], 2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 1
    with load_objects(loader, [objects["one"]]) as loaded:
        assert list(loaded.programs) == ["put"]


def test_too_many_open_files(loader: ObjectLoader, objects: dict[str, Path]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    free = [number for number in range(len(used) + 9) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[8], hard))  # the set has eleven
    try:
        with pytest.raises(MachineError, match="EMFILE"):
            load_objects(loader, [objects["one"], objects["slow"]])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    load_objects(loader, [objects["one"]]).close()


def test_memory_is_that_of_all_maps_of_the_set(objects: dict[str, Path]) -> None:
    with nothing_left(), ObjectLoader(memory=60 << 20) as loader:
        load_objects(loader, [objects["large"]]).close()
        load_objects(loader, [objects["large"], objects["sharing"]]).close()
        with pytest.raises(ObjectError, match=r"map b .* would take 38 MiB, of 21 MiB that are left"):
            load_objects(loader, [objects["large"], objects["larger"]])


HOLD = """
import signal, sys
from pathlib import Path
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.elf.loader import ObjectLoader
loader = ObjectLoader()
loaded = load_objects(loader, [Path(sys.argv[1])])
print("loaded", flush=True)
signal.pause()
"""


def test_a_killed_process_leaves_nothing(objects: dict[str, Path]) -> None:
    command = [sys.executable, "-c", HOLD, str(objects["one"])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
        held = belongings(process.pid)
        process.kill()
    kinds = [what.split()[0] for what in held]
    assert [kinds.count(kind) for kind in ("process", "prog", "map")] == [2, 1, 5]
    eventually(
        lambda: not left_of(held),
        awaited=lambda: f"nothing left of {left_of(held)}",
        deadline=10,
    )


@pytest.fixture(scope="module")
def by_libbpf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProgramSet]:
    folder, flags = tmp_path_factory.mktemp("reference"), ("-g", f"-I{ROOT / 'bpf/include'}")
    paths = [
        compiled(folder, name, (ROOT / f"bpf/{name}.c").read_text(encoding="utf-8"), flags)
        for name in ("sockops", "connect", "sendmsg")
    ]
    with ObjectLoader() as loader, load_objects(loader, paths) as loaded:
        yield loaded


def test_both_loaders_make_the_same_set(program_set: ProgramSet, by_libbpf: ProgramSet) -> None:
    def shape(each: Map) -> tuple[int, int, int, int]:
        return each.type, each.key_size, each.value_size, each.max_entries

    both = (program_set, by_libbpf)
    programs, others = ({name: each.kind for name, each in loaded.programs.items()} for loaded in both)
    assert programs == others
    maps, others_maps = ({name: shape(each) for name, each in loaded.maps.items()} for loaded in both)
    assert maps == others_maps
    for loaded in both:
        Config(load_profile("main"), loaded.variables, None).reset()
    assert dict(program_set.globals) == dict(by_libbpf.globals)
    assert dict(program_set.variables) == dict(by_libbpf.variables)
    types, others_types = (
        {name: kind.name for name in loaded.variables if (kind := loaded.variables.type_of(name))}
        for loaded in both
    )
    assert types == others_types
    assert program_set.failures == by_libbpf.failures == ()
    assert (program_set.origin, by_libbpf.origin) == (
        "reference (sockops.c, connect.c, sendmsg.c) by bcc",
        "sockops.o, connect.o, sendmsg.o by libbpf",
    )
