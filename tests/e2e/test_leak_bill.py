"""The leak bill as a person meets it: tests that leave one thing each, and what they are told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

# What each test leaves, and what its bill says of it. The line of `LEAVES` is the one that is to be named.
ROWS = {
    "descriptor": ("os.open('/etc/passwd', os.O_RDONLY)", r"descriptor \d+ +/etc/passwd +opened"),
    "pipe": ("os.pipe()", r"descriptor \d+ +pipe:\S+ +made"),
    "socket": (
        "KEPT.append(socket.create_server(('127.0.0.1', 0)))",
        r"descriptor \d+ +socket TCP 127.0.0.1:\d+ +opened",
    ),
    "namespace": ("os.open('/proc/self/ns/net', os.O_RDONLY)", r"namespace net:\S+ +held by descriptor"),
    "thread": ("Thread(target=EVENT.wait, name='waits').start()", r"thread \d+ +waits +started"),
    "process": ("KEPT.append(Popen(['sleep', '300']))", r"process \d+ +sleep 300 +started"),
    "zombie": ("KEPT.append(ended(Popen(['true'])))", r"zombie \d+ +true: it has ended.* started"),
    "daemon": ("run(['sh', '-c', 'sleep 299 & echo $! > ' + PID])", r"process \d+ +sleep 299 +started"),
    "folder": ("KEPT.append(tempfile.mkdtemp())", r"file +\S+/tmp\w+ +made"),
    "cgroup": ("os.mkdir(bench.cgroup / 'left')", r"cgroup +\S+/left +made"),
    "program": ("KEPT.append(TapProgram(object_loader))", r"program \d+ +tap \(sock_ops\).* loaded"),
    "map": ("KEPT.append(TapProgram(object_loader))", r"map \d+ +tap_\w+ descriptor \d+ +made"),
    "link": ("attach(program(tap_program), lab.cgroup_fd, STACK)", r"link \d+ +\(cgroup of program \d+\)"),
    "attached": ("attach_without_link(bench, object_loader)", r"program \d+ +lives on.* loaded"),
    "mount": ("run(['mount', '-t', 'tmpfs', 'none', MOUNT])", r"mount +at \S+/bill-mount-\d+ +mounted"),
    "named": ("run(['ip', 'netns', 'add', NAME])", r"named namespace +bill-\d+ +made"),
    "interface": ("run(['ip', 'link', 'add', NAME, 'type', 'bridge'])", r"interface +bill-\d+ +made"),
    "pin": ("os.mkdir(PIN)", r"pin +/sys/fs/bpf/bill-\d+ +made"),
}
NEEDS = {
    "cgroup": "bench",
    "program": "object_loader",
    "map": "object_loader",
    "link": "tap_program, lab",
    "attached": "bench, object_loader",
}
# In namespaces of its own, what such a test leaves on the machine is nobody else's to see.
ALONE = ("unshare", "--net", "--mount", "--propagation", "private")
MOUNTS = (
    'mkdir -p /run/netns "$0" && mount -t tmpfs none /run/netns && mount -t bpf none /sys/fs/bpf'
    ' && mount -t sysfs none "$0" && mount --bind "$0/class/net" /sys/class/net && exec "$@"'
)
HEAD = """
import os, socket, tempfile
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen, run
from threading import Event, Thread
import pytest
from conftest import *
from testbed.bpf import libbpf
from testbed.bpf.attach import attach
from testbed.observe.tap import TapProgram

def ended(process):
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process

def program(tap):
    return next(iter(tap._set.programs.values()))

def attach_without_link(bench, loader):
    os.mkdir(bench.cgroup / "attached")
    fd = os.open(bench.cgroup / "attached", os.O_RDONLY)
    tap = TapProgram(loader)
    libbpf.program_attach(program(tap).fd, fd, program(tap).kind.attach_type, libbpf.ALLOW_MULTI)
    tap.close()
    os.close(fd)
"""
CONFTEST = """
import os, shutil, signal, subprocess, tempfile
from contextlib import ExitStack
from threading import Event
import testbed.bill.bill

testbed.bill.bill.DEADLINE_S, testbed.bill.bill._PATIENCE = 0.1, 1  # what is left here is left for good
KEPT, EVENT, STACK = [], Event(), ExitStack()
NAME = f"bill-{os.getpid()}"
MOUNT = os.path.abspath(f"bill-mount-{os.getpid()}")
PID = os.path.abspath(f"pid-{os.getpid()}")
PIN = f"/sys/fs/bpf/{NAME}"
os.mkdir(MOUNT)

def pytest_unconfigure():
    EVENT.set()
    STACK.close()
    for each in KEPT:
        if isinstance(each, subprocess.Popen):
            each.kill()
            each.wait()
        if isinstance(each, str):
            shutil.rmtree(each)
    if os.path.exists(PID):
        os.kill(int(open(PID).read()), signal.SIGKILL)
"""


def pytest_in(folder: Path, text: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What pytest says of these tests in a folder of their own."""
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (folder / "test_it.py").write_text(text, encoding="utf-8")
    words = [*ALONE, "sh", "-c", MOUNTS, str(folder / "sys"), sys.executable, "-m", "pytest"]
    words += ["-q", "-p", "no:cacheprovider"]
    words += ["--tb=short", "test_it.py", *arguments]
    variables = {**os.environ, "COLUMNS": "300", **(environment or {})}
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, timeout=90, env=variables
    )
    assert "Traceback" not in done.stderr
    return done.stdout


def bills(said: str) -> dict[str, str]:
    """The bill of each test that has one, by the test's name."""
    parts = re.split(r"^_+ ERROR at teardown of (\S+) _+$", said, flags=re.MULTILINE)
    return {
        name: text.partition("\n=")[0].partition("\n----")[0]
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    tests = [
        f"def test_{name}({NEEDS.get(name, '')}):\n    {line}\n\ndef test_clean_after_{name}(tmp_path):\n"
        "    run(['true'])\n    (tmp_path / 'x').write_text('x')\n    socket.socket().close()\n"
        for name, (line, _) in ROWS.items()
    ]
    return bills(pytest_in(tmp_path_factory.mktemp("rows"), HEAD + "\n".join(tests)))


@pytest.mark.parametrize("name", ROWS)
def test_each_kind_is_on_the_bill_of_its_test(told: dict[str, str], name: str) -> None:
    line, words = ROWS[name]
    bill = told[f"test_{name}"]
    assert bill.strip().startswith("leak bill: the test left ")
    assert re.search(words, bill), bill
    functions = set(re.findall(r"at test_it.py:\d+ in (\w+)", bill))
    assert functions == {line.partition("(")[0] if name == "attached" else f"test_{name}"}


def test_nobody_else_has_one(told: dict[str, str]) -> None:
    last = f"test_clean_after_{list(ROWS)[-1]}"
    assert set(told) - {last} == {f"test_{name}" for name in ROWS}
    # the link that is left keeps its program, which is of a fixture that ends with the last test
    assert told[last].count("leak bill:") == 1
    assert "leak bill: the fixture tap_program (session scope, " in told[last]


def test_the_line_is_named_with_its_source(told: dict[str, str]) -> None:
    found = re.search(r"at test_it.py:\d+ in test_descriptor: (.*)", told["test_descriptor"])
    assert found is not None
    assert found[1] == ROWS["descriptor"][0]


FIXTURES = """
@pytest.fixture(scope="module")
def tidy():
    with open("/etc/passwd") as file:
        yield file

@pytest.fixture(scope="module")
def lazy():
    made = []
    def make():
        made.append(os.open("/etc/group", os.O_RDONLY))
    yield make
    for fd in made:
        os.close(fd)

@pytest.fixture(scope="module")
def careless(tidy):
    os.open("/etc/hostname", os.O_RDONLY)

def test_one(tidy, careless, lazy): lazy()
def test_two(tidy, careless, lazy): lazy()

@pytest.mark.keeps("the table is for the next one")
def test_keeps(): os.open("/etc/hosts", os.O_RDONLY)

def test_fails():
    sock = socket.socket()  # which the traceback keeps
    assert sock.fileno() < 0

@pytest.mark.xfail(raises=AssertionError)
def test_fails_as_it_is_known_to():
    sock = socket.socket()
    assert sock.fileno() < 0

def test_fails_and_leaves():
    KEPT.append(tempfile.mkdtemp())
    assert False

def test_last(): pass
"""


def test_fixtures_failures_and_what_is_kept_on_purpose(tmp_path: Path) -> None:
    """A fixture of broader scope is billed when it ends; a failure keeps what its traceback does."""
    said = pytest_in(tmp_path, HEAD + FIXTURES)
    found = bills(said)
    assert "2 failed, 4 passed, 1 xfailed, 2 errors" in said
    assert sorted(found) == ["test_fails_and_leaves", "test_last"]
    assert "the fixture careless (module scope, test_it.py:" in found["test_last"]
    assert "left 1 thing\n" in found["test_last"]
    assert "/etc/hostname" in found["test_last"]
    assert re.search(r"test_keeps keeps on purpose, the table is for the next one: .*left 1 thing", said)


TORN = """
@pytest.fixture(scope="module")
def careless():
    os.open("/etc/hostname", os.O_RDONLY)
    yield
    raise OSError("torn")

def test_one(careless): KEPT.append(tempfile.mkdtemp())
"""


@pytest.mark.long
def test_a_teardown_that_fails_has_its_bill_beside_it(tmp_path: Path) -> None:
    said = pytest_in(tmp_path, HEAD + TORN)
    assert "1 passed, 1 error" in said
    found = bills(said)["test_one"]
    assert "OSError: torn" in found
    assert "the fixture careless (module scope, test_it.py:" in found
    assert re.search(r"the test left 1 thing\n.* file +/tmp/", found)


@pytest.mark.long
def test_other_workers_are_not_billed(tmp_path: Path) -> None:
    """Two workers with labs, programs and processes all the time, and two tests that leave something."""
    busy = (
        "@pytest.mark.parametrize('n', range(6))\n"
        "def test_busy(n, lab, tap):\n    lab['client'].run(['true'])\n"
    )
    leaves = (
        "def test_leaves_a_pipe():\n    os.pipe()\n\n"
        "def test_leaves_a_process():\n    KEPT.append(Popen(['sleep', '300']))\n"
    )
    said = pytest_in(
        tmp_path, HEAD + busy + leaves + busy.replace("busy", "busy_too"), "-n", "2", "--record", "off"
    )
    assert sorted(bills(said)) == ["test_leaves_a_pipe", "test_leaves_a_process"]
    assert "14 passed, 2 errors" in said


@pytest.mark.long
def test_it_can_be_turned_off(tmp_path: Path) -> None:
    said = pytest_in(tmp_path, HEAD + "def test_leaves(): os.pipe()\n", "--no-leak-bill")
    assert "1 passed" in said
    assert not bills(said)


@pytest.mark.long
@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_a_run_keeps_is_on_no_bill_wherever_that_is(tmp_path: Path, workers: str) -> None:
    """Runs, capsules, logs and what is compiled, in folders that are made below ``/tmp``."""
    with TemporaryDirectory() as folder:
        places = {"TESTBED_STATE": f"{folder}/new/state", "TESTBED_CACHE": f"{folder}/new/cache"}
        text = "def test_fails(pair, mesh):\n    with pair.connect() as one:\n        assert not one\n"
        said = pytest_in(tmp_path, text, "--family", "v4", "-n", workers, environment=places)
        assert "1 failed in" in said
        assert list(Path(folder, "new/state/runs").glob("*/stories/*.json"))
        assert list(Path(folder, "new/cache").rglob("*.o"))


@pytest.mark.long
def test_a_home_below_tmp_is_a_home(tmp_path: Path) -> None:
    with TemporaryDirectory() as home:
        text = "def test_keeps():\n    os.mkdir(os.environ['HOME'] + '/kept')\n"
        said = pytest_in(tmp_path, HEAD + text, environment={"HOME": home})
    assert "1 passed" in said
    assert not bills(said)
