"""Programs are attached to cgroups of this run's labs alone, and to none with a stranger in it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.bpf.attach import Interface, attach, prepare
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.own_program import load_own
from testbed.bpf.program_set import Program, ProgramSet
from testbed.errors import UsageError
from testbed.kernel.cgroup import cgroup_root
from testbed.kmesh.mesh import Mesh
from testbed.lab.attached import Attached
from testbed.lab.impatience import impatience_sources
from testbed.lab.lab import Lab
from testbed.topology.load import read_topology
from tests.conftest import ROOT, Run
from tests.faults.foreign import ForeignLab


@pytest.fixture
def loaded(object_loader: ObjectLoader) -> Iterator[ProgramSet]:
    with load_own(impatience_sources(), object_loader) as made:
        yield made


@pytest.fixture
def program(loaded: ProgramSet) -> Program:
    return loaded.programs["impatient"]


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that the lab knows nothing of: its parent has ended."""
    code = "import subprocess, sys; print(subprocess.Popen(['cat'], stdout=2).pid)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.wait()
        yield pid  # it ends with its input


def move(pid: int, cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(pid), encoding="ascii")


def descriptor(path: str | Path, stack: ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


@pytest.mark.parametrize("links", [True, False])
def test_the_root_of_all_cgroups_is_refused(program: Program, links: bool) -> None:
    with ExitStack() as stack:
        fd = descriptor(stack.enter_context(cgroup_root()).path, stack)
        with pytest.raises(UsageError) as caught:
            attach(program, fd, stack, links=links)
    text = str(caught.value)
    assert text.startswith("attach impatient (sockops) to /")
    assert "it is no cgroup of this run's labs; in it: process " in text
    assert " more" in text


@pytest.mark.parametrize("name", ["foreign", "sockops-testbed"])
def test_a_foreign_cgroup_is_refused(program: Program, stranger: int, name: str) -> None:
    """Never by the look of a name."""
    with ExitStack() as stack:
        root = stack.enter_context(cgroup_root())
        path = root.path / f"{name}-{secrets.token_hex(8)}"
        path.mkdir()
        stack.callback(path.rmdir)
        fd = descriptor(path, stack)
        with pytest.raises(UsageError, match="it is no cgroup of this run's labs\n"):
            attach(program, fd, stack)
        move(stranger, path)
        stack.callback(move, stranger, root.path)
        with pytest.raises(UsageError, match=rf"labs; in it: process {stranger} \(cat\)\n"):
            attach(program, fd, stack)


def test_a_lab_of_another_run_is_refused(program: Program) -> None:
    with ExitStack() as stack:
        root = stack.enter_context(cgroup_root())
        other = ForeignLab(stack)
        with pytest.raises(UsageError, match=r"it is a lab of another run \(process \d+\)"):
            attach(program, descriptor(root.path / other.name / "lab-1/lab", stack), stack)
        assert other.connects()


def test_an_interface_of_the_machine_is_refused(program: Program) -> None:
    program = replace(program, kind=ProgramKind.XDP)
    with ExitStack() as stack:
        fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        with pytest.raises(
            UsageError, match=r"to lo: it is an interface of the machine, not of a lab's host"
        ):
            attach(program, Interface(fd, 1, "lo"), stack)
        with pytest.raises(UsageError, match="prepare lo for tc programs: it is an interface of the machine"):
            prepare(Interface(fd, 1, "lo"))


def test_a_child_of_the_run_may_attach(lab: Lab, program: Program) -> None:
    with ExitStack() as stack:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                attach(program, lab.cgroup_fd, stack)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("host", ["", "client"], ids=["lab", "host"])
def test_a_lab_that_holds_a_stranger_is_refused(
    lab: Lab, loaded: ProgramSet, stranger: int, host: str
) -> None:
    move(stranger, lab.cgroup_path / host)
    try:
        for make in (Attached, Mesh):
            with pytest.raises(UsageError) as caught:
                make(loaded, lab)
            assert f"the lab's cgroup holds who does not belong there: process {stranger} (cat)" in str(
                caught.value
            )
    finally:
        with cgroup_root() as root:
            move(stranger, root.path)


def test_who_was_let_onto_a_host_is_no_stranger(lab: Lab, loaded: ProgramSet) -> None:
    """A command that a test runs, and one that has left it: the network namespace is the host's."""
    with ExitStack() as stack:
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, nowhere)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, write_end)
        stack.callback(os.close, read_end)
        code = "import subprocess; subprocess.Popen(['cat'])"
        stack.enter_context(lab["client"].spawn(["cat"], stdin=read_end, stdout=nowhere, stderr=nowhere))
        lab["server"].run([sys.executable, "-I", "-S", "-c", code])
        Attached(loaded, lab).close()


UNSAFE = """
name: own
hosts:
  client: {cgroup: ESCAPE}
  server: {}
links: [[client, server]]
"""


@pytest.mark.parametrize("cgroup", ["..", "../..", "/sys/fs/cgroup", "a/b", ".", "", "-x", "x\\0y", "A"])
def test_a_topology_names_no_cgroup_elsewhere(cgroup: str) -> None:
    with pytest.raises(UsageError, match=r"expected a name"):
        read_topology(UNSAFE.replace("ESCAPE", f'"{cgroup}"'))


@pytest.mark.parametrize("at", ["..", "../../x", "/", "nobody"])
def test_a_topology_attaches_to_its_own_hosts_alone(at: str) -> None:
    text = UNSAFE.replace("ESCAPE", "mine") + f'programs: [{{set: reference, at: "{at}"}}]\n'
    with pytest.raises(UsageError):
        read_topology(text)


@pytest.mark.long
def test_doctor_says_that_labs_are_safe(testbed_command: Run) -> None:
    done = testbed_command("doctor")
    (line,) = [line for line in done.stdout.splitlines() if " safety " in line]
    assert line.startswith("ok ")
    assert "programs are attached below sockops-testbed-" in line


FOREIGN = """
import sys
import testbed.lab.bench
from testbed import doctor
from testbed.lab.bench import Bench
class Visited(Bench):
    def __init__(self):
        super().__init__()
        (self.cgroup / "idle" / "cgroup.procs").write_text(sys.argv[1])
testbed.lab.bench.Bench = Visited
doctor.STEPS = tuple(step for step in doctor.STEPS if step.name in {"root", "cgroups", "lab", "safety"})
safety = [finding for finding in doctor.examine() if finding.name == "safety"]
doctor.print_findings(safety, doctor.Console())
"""


def test_doctor_says_that_a_lab_is_unsafe(stranger: int) -> None:
    """What is in the run's cgroup ends with it: here, a process that is somebody else's."""
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, str(stranger)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("FAIL safety ")
    assert f"its cgroup holds foreign processes: process {stranger} (cat)" in done.stdout
