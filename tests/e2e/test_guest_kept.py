"""What guests are made from and leave behind: snapshots, drafts, processes; and who may start them."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from testbed.errors import ExitCode, MachineError
from testbed.guest import accel
from testbed.guest.accel import accelerator
from testbed.guest.command import run_command
from testbed.guest.qemu import Machine, qemu, qemu_version
from testbed.guest.snapshot import Snapshot
from testbed.guest.system import find_system
from testbed.kernels.cache import cache_dir, side_dir
from testbed.kernels.find import find_kernels
from testbed.kernels.kernel import Kernel
from testbed.lab.wait import eventually
from testbed.matrix.own_objects import own_objects
from tests.conftest import Run
from tests.guests import SERIES, held_in_saving, qemu_of, started, the_kernel, vm

NOBODY = 65534
MACHINE = Machine(Path("vmlinux"), Path("initrd"), "module", "nonce", "tcg")
LATER = replace(MACHINE, nonce="another")


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    return the_kernel()


@pytest.fixture
def cache(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, with the kernel and without any snapshot."""
    entry, apt = kernel.image.parent, side_dir("apt")
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    shutil.copytree(entry, cache_dir("kernels") / entry.name, symlinks=True)
    shutil.copytree(apt, side_dir("apt"), dirs_exist_ok=True)
    return tmp_path / "cache"


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that others may enter: pytest's own are for their owner alone."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def snapshot_in(cache: Path) -> Path:
    (found,) = (cache / "store" / "snapshots").iterdir()
    return found


def forget_qemu() -> None:
    qemu.cache_clear()
    qemu_version.cache_clear()


@contextmanager
def qemu_from(folder: Path) -> Iterator[None]:
    """QEMU is the one in the folder, until the block ends."""
    with ExitStack() as stack:
        stack.callback(forget_qemu)  # after the path is the old one: else the next test meets this one's QEMU
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("PATH", f"{folder}:{os.environ['PATH']}")
        forget_qemu()
        yield


def test_a_snapshot_is_of_everything_that_is_in_it(tmp_path: Path) -> None:
    names = {
        Snapshot.of(MACHINE, "purpose", "content"),
        Snapshot.of(MACHINE, "purpose", "other"),
        Snapshot.of(MACHINE, "other", "content"),
        Snapshot.of(replace(MACHINE, accelerator="kvm"), "purpose", "content"),
        Snapshot.of(replace(MACHINE, memory=512), "purpose", "content"),
        Snapshot.of(LATER, "purpose", "content"),
    }
    assert len(names) == 5, "all but the nonce make another"
    other = tmp_path / Path(qemu()).name
    other.write_text("#!/bin/sh\necho QEMU emulator version 99.0\n", encoding="ascii")
    other.chmod(0o755)
    with qemu_from(tmp_path):
        newer = Snapshot.of(MACHINE, "purpose", "content")
    assert newer not in names
    assert newer.slot == Snapshot.of(LATER, "purpose", "content").slot, "it takes the place of the old one"


def cut(snapshot: Path) -> None:
    os.truncate(snapshot / "ram", 1 << 20)


def flip(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(50_000)
        stream.write(os.urandom(20_000))


def flip_memory(snapshot: Path) -> None:
    flip(snapshot / "ram")


def flip_unseen(snapshot: Path) -> None:
    before = (snapshot / "state").stat()
    flip(snapshot / "state")
    os.utime(snapshot / "state", ns=(before.st_atime_ns, before.st_mtime_ns))


def forget(snapshot: Path) -> None:
    (snapshot / "facts.json").unlink()


def confuse(snapshot: Path) -> None:
    (snapshot / "facts.json").write_text("[]", encoding="ascii")


@pytest.mark.long
def test_a_damaged_snapshot_is_made_again(cache: Path, kernel: Kernel) -> None:
    last = 0
    for damage in (cut, flip_memory, flip_unseen, forget, confuse):
        done = vm("--", "uname", "-r")
        assert (done.stdout, done.stderr) == (f"{kernel.release}\n".encode(), b""), damage
        before, last = last, (snapshot_in(cache) / "ram").stat().st_ino
        assert last != before, f"the one before {damage.__name__} was used"
        damage(snapshot_in(cache))
    assert vm("--", "true").returncode == 0


def drafts(cache: Path) -> list[str]:
    """What a snapshot that is being made consists of."""
    return [file.name for file in (cache / "drafts" / "snapshots").glob("*/*")]


def booting(cache: Path, process: subprocess.Popen[bytes]) -> int:
    """The QEMU of a run that makes a snapshot, once there is one, else 0."""
    assert process.poll() is None, process.communicate()
    return qemu_of(process.pid) if drafts(cache) == ["ram"] else 0


@pytest.mark.long
@pytest.mark.parametrize("phase", ["it boots", "its snapshot is made", "it runs"])
def test_a_killed_run_leaves_no_qemu(cache: Path, phase: str) -> None:
    with ExitStack() as stack:
        process = stack.enter_context(started("--", "sh", "-c", "echo up; sleep 1000"))
        guest = eventually(lambda: booting(cache, process), awaited="a guest that boots", deadline=60)
        if phase == "its snapshot is made":
            stack.enter_context(held_in_saving(cache))
        if phase == "it runs":
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            guest = qemu_of(process.pid)
        gone = os.pidfd_open(guest)
        stack.callback(os.close, gone)
        process.kill()
        process.wait()
        assert select.select([gone], [], [], 10)[0], "QEMU lives on"
    assert vm("--", "true").returncode == 0
    assert drafts(cache) == []


@pytest.mark.long
def test_an_ordinary_user(cache: Path, home: Path, testbed_command: Run) -> None:
    shutil.copytree(cache, home / "cache", symlinks=True)
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    mine = {"HOME": str(home), "TESTBED_CACHE": str(home / "cache")}
    done = testbed_command("vm", "--kernel", SERIES, "--", "id", "-u", prefix=user, env=mine)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    done = testbed_command("check", "--kernel", SERIES, "-k", "port_929", prefix=user, env=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    done = testbed_command("matrix", "--kernel", SERIES, "-k", "port_929", prefix=user, env=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert testbed_command("kernels", "list", prefix=user, env=mine).returncode == 0


@pytest.mark.long
def test_a_full_disk(cache: Path, tmp_path: Path, testbed_command: Run) -> None:
    size = sum(file.lstat().st_blocks * 512 for file in cache.rglob("*")) // 2**20
    full = tmp_path / "full"
    full.mkdir()
    script = 'mount -t tmpfs -o "size=$2" none "$1" && cp -a "$0/." "$1" && shift 2 && exec "$@"'
    words = ("unshare", "-m", "sh", "-c", script, str(cache), str(full), f"{size + 220}m")
    environment = {"TESTBED_CACHE": str(full)}
    done = testbed_command("vm", "--kernel", SERIES, "--", "true", prefix=words, env=environment)
    assert done.returncode == ExitCode.CANNOT_RUN
    said, advice = done.stderr.splitlines()
    assert said.startswith(f"testbed: cannot keep a guest's memory in {full}")
    assert said.endswith("ENOSPC (No space left on device)")
    assert "kernels prune" in advice


EATER = "x = []\nwhile True: x.append(bytearray(50_000_000))"


@pytest.mark.long
@pytest.mark.usefixtures("kernel")
def test_memory_that_runs_out() -> None:
    done = vm("--", "sh", "-c", 'python3 -c "$0"; echo "$?"; exit 9', EATER)
    assert (done.returncode, done.stdout) == (9, b"137\n"), "the guest lasts"
    done = vm("--", "python3", "-c", EATER)
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stderr.startswith(b"the guest's kernel: Out of memory: Killed process")
    done = vm("--memory", "256", "--", "true")
    assert done.returncode == ExitCode.CANNOT_RUN
    assert b"did not last: out of memory: Initramfs unpacking failed: write error" in done.stderr
    assert done.stderr.decode().endswith("→ --memory gives the guest more\n")


@pytest.mark.long
@pytest.mark.usefixtures("kernel")
def test_what_is_taken_along_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file").write_bytes(b"\0\xff")
    (tmp_path / "alone").write_text("alone", encoding="ascii")
    taken = ("--with", str(tmp_path / "folder"), "--with", str(tmp_path / "alone"))
    done = vm(*taken, "--", "cat", "alone", "folder/inner/file")
    assert (done.returncode, done.stdout) == (0, b"alone\0\xff")
    done = vm("--", "head", "-c", "1000000", "/dev/urandom")
    assert (done.returncode, len(done.stdout)) == (0, 1_000_000)
    done = vm("--with", str(tmp_path / "missing"), "--", "true")
    assert done.returncode == ExitCode.USAGE
    assert b"there is no such file" in done.stderr


def test_a_kvm_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTBED_ACCEL", raising=False)
    monkeypatch.setattr(accel, "KVM", tmp_path / "kvm")
    verdict = accelerator(tmp_path / "no image")
    assert verdict.name == "tcg"
    assert f"{tmp_path / 'kvm'}: ENOENT" in verdict.why


@pytest.mark.long
def test_a_verdict_on_kvm_is_kept(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until anything that it depends on is another. Whatever the verdict is here."""
    monkeypatch.delenv("TESTBED_ACCEL", raising=False)
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    monkeypatch.setattr(accel, "KVM", tmp_path / "kvm")
    (tmp_path / "kvm").touch()  # it can be opened: what QEMU makes of the real one is found out
    verdict = accelerator(kernel.image)
    assert verdict.name in {"kvm", "tcg"}
    kept = tmp_path / "accelerator" / "verdict.json"
    recorded = json.loads(kept.read_text(encoding="utf-8"))
    recorded["verdict"]["why"] = "as it is written here"
    kept.write_text(json.dumps(recorded), encoding="utf-8")
    assert accelerator(kernel.image).why == "as it is written here"
    kept.write_text("{", encoding="utf-8")
    assert accelerator(kernel.image) == verdict


SCENARIOS = """
def test_that_the_kernel_complains_of():
    with open("/dev/kmsg", "w") as log:
        log.write("<4>WARNING: CPU: 0 PID: 1 at net/core/sock.c:1 f+0x1/0x2\\n")

def test_of_which_it_says_nothing():
    pass
"""
SESSION = """
import pytest
from testbed.matrix.inside import WARM, Session
from testbed.report.results import Collector
class Port:
    def receive(self):
        return {"event": "run", "items": [0, 1]}
    def send(self, **message):
        if message["event"] == "result":
            print(message["outcome"], message["details"].splitlines()[:2])
collector = Collector()
words = ["-p", "testbed.pytest_plugin", "-p", "testbed.pytest_objects", "/root/test_two.py", str(WARM)]
pytest.main(words, plugins=[collector, Session(Port(), collector)])
"""


@pytest.mark.long
@pytest.mark.usefixtures("kernel")
def test_a_scenario_that_the_kernel_complains_of_has_failed(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(SCENARIOS, encoding="ascii")
    (tmp_path / "session.py").write_text(SESSION, encoding="ascii")
    taken = ("--with", str(tmp_path / "test_two.py"), "--with", str(tmp_path / "session.py"))
    done = vm(*taken, "--", "env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", "python3", "/root/session.py")
    complaint = "'WARNING: CPU: 0 PID: 1 at net/core/sock.c:1 f+0x1/0x2'"
    assert done.stdout.decode().splitlines() == [
        f"failed ['the kernel complained while this ran:', {complaint}]",
        "passed []",
    ], done.stderr.decode()


@pytest.mark.long
def test_modules_of_another_kernel(kernel: Kernel) -> None:
    other = find_kernels(["5.10"])[0]
    with pytest.raises(MachineError, match=r"(?s)load 000-veth\.ko: .* these modules that kernel's\?"):
        run_command(replace(kernel, modules=other.modules), ["true"], find_system(own_objects()))
