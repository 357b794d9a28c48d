"""Commands and shells in guests: what comes out of them, and how guests end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.errors import ExitCode
from testbed.guest import guest as guest_module
from testbed.guest.guest import Guest, GuestEnded
from testbed.guest.qemu import Machine
from testbed.guest.state import GuestState
from testbed.kernels.kernel import Kernel
from tests.conftest import ROOT, Run
from tests.guests import SERIES, qemu_of, started, the_kernel, tiny_kernel, vm, vm_words

UD2, HALT = b"\x0f\x0b", b"\xfa\xf4\xeb\xfd"


@pytest.fixture(scope="session", autouse=True)
def kernel() -> Kernel:
    return the_kernel()


COMMANDS = [
    (r"printf 'a\0\377b'; echo wrong >&2; exit 7", 7, b"a\0\xffb", b"wrong\n"),
    ("kill -TERM $$", 128 + signal.SIGTERM, b"", b""),
    (
        "cat /proc/1/oom_score_adj /proc/$PPID/oom_score_adj /proc/$$/oom_score_adj",
        0,
        b"-1000\n-1000\n0\n",
        b"",
    ),
    (
        "readlink /proc/$$/fd/0; pwd; id -u; ip -br link show lo | cut -c1-2",
        0,
        b"/dev/null\n/root\n0\nlo\n",
        b"",
    ),
]


@pytest.mark.long
@pytest.mark.parametrize(("script", "code", "output", "errors"), COMMANDS)
def test_a_command(script: str, code: int, output: bytes, errors: bytes) -> None:
    done = vm("--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (code, output, errors)


@pytest.mark.long
@pytest.mark.parametrize(("word", "code"), [("nosuchcommand", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_be_run(word: str, code: int) -> None:
    done = vm("--", word)
    assert done.returncode == code
    assert done.stderr.decode().startswith(f"{word}: ")


ENDS = [
    ("echo c > /proc/sysrq-trigger", (), "panic: sysrq triggered crash", "Trigger a crash"),
    ("sleep 1000", ("--deadline", "1"), "hang: silent for 1 s; awaited: the end of sh", "→ look at what it"),
]


@pytest.mark.long
@pytest.mark.parametrize(("script", "options", "said", "more"), ENDS)
def test_a_guest_that_does_not_last(script: str, options: tuple[str, ...], said: str, more: str) -> None:
    done = vm(*options, "--", "sh", "-c", script)
    assert done.returncode == ExitCode.CANNOT_RUN
    errors = done.stderr.decode()
    assert errors.splitlines()[0] == f"testbed: the guest did not last: {said}"
    assert more in errors
    assert errors.splitlines()[-1].startswith("  → ")
    assert "Traceback" not in errors


@pytest.mark.long
def test_a_qemu_that_is_killed() -> None:
    with started("--", "sh", "-c", "echo up; sleep 100") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.kill(qemu_of(process.pid), signal.SIGKILL)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == ExitCode.CANNOT_RUN
    assert b"the guest did not last: lost: QEMU was killed by SIGKILL" in errors


@pytest.mark.long
def test_a_kernel_that_does_not_come_up(tmp_path: Path, testbed_command: Run) -> None:
    """This one resets the machine at once."""
    image = tmp_path / "vmlinux"
    image.write_bytes(tiny_kernel(UD2))
    done = testbed_command("vm", "--kernel", str(image), "--", "true")
    assert done.returncode == ExitCode.CANNOT_RUN
    assert done.stderr.startswith("testbed: the guest did not last: no boot: QEMU ended with 0\n  → ")


def test_a_kernel_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_module, "BOOT_DEADLINE_S", 0.5)
    image = tmp_path / "vmlinux"
    image.write_bytes(tiny_kernel(HALT))
    with Guest(Machine(image, image, "none", "", "tcg")) as guest, pytest.raises(GuestEnded) as ended:
        guest.await_up()
    assert ended.value.report.state is GuestState.NO_BOOT
    assert "awaited: its user space" in ended.value.report.why


BAD_KERNELS = [
    ("9.99", "cannot find the kernel 9.99"),
    ("/etc/passwd", "it is no kernel image"),
    ("/bin/sh", "it is no kernel image"),
    ("/nonexistent", "there is no such file"),
]


@pytest.mark.parametrize(("name", "why"), BAD_KERNELS)
def test_what_is_no_kernel(in_process: Run, name: str, why: str) -> None:
    done = in_process("vm", "--kernel", name, "--", "true")
    assert done.returncode == ExitCode.USAGE
    assert why in done.stderr


def test_no_qemu(tmp_path: Path, testbed_command: Run) -> None:
    for folder in os.environ["PATH"].split(":"):
        for file in Path(folder).glob("*"):
            if not file.name.startswith("qemu-system") and not (tmp_path / file.name).is_symlink():
                (tmp_path / file.name).symlink_to(file)
    done = testbed_command("vm", "--kernel", SERIES, "--", "true", env={"PATH": str(tmp_path)})
    assert done.returncode == ExitCode.CANNOT_RUN
    assert done.stderr == (
        "testbed: cannot find qemu-system-x86_64: QEMU is not installed\n"
        "  → apt-get install qemu-system-x86\n"
    )


@pytest.mark.long
def test_ctrl_c_ends_it_at_once() -> None:
    with started("--", "sh", "-c", "echo up; sleep 100") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        gone = os.pidfd_open(qemu_of(process.pid))
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=10) == (b"", b"testbed: interrupted; the guest is ended\n")
        assert time.monotonic() - start < 5
    assert process.returncode == ExitCode.INTERRUPTED
    assert select.select([gone], [], [], 5)[0], "QEMU lives on"
    os.close(gone)


SPLAT = """
from testbed.guest.inside.kmsg import KernelLog
def say(words):
    with open("/dev/kmsg", "w") as file:
        file.write(words + "\\n")
say("<4>WARNING: CPU: 0 PID: 1 at before.c:1")
log = KernelLog()
say("<6>all is well")
print([log.splat()])
say("<4>WARNING: CPU: 0 PID: 1 at net/core/sock.c:1 f+0x1/0x2")
print(log.splat().splitlines()[:1])
print([log.splat()])
"""


@pytest.mark.long
def test_a_splat_is_seen_once() -> None:
    done = vm("--", "python3", "-c", SPLAT)
    seen = "WARNING: CPU: 0 PID: 1 at net/core/sock.c:1 f+0x1/0x2"
    assert done.stdout.decode().splitlines() == ["['']", f"['{seen}']", "['']"], done.stderr


# A seccomp filter that answers one command of bpf(2) as a kernel does that was built without it.
WITHOUT = """
import ctypes, errno, os, struct, sys
from testbed.matrix.bpf_support import missing_bpf
libc = ctypes.CDLL(None, use_errno=True)
def refuse(command, error):
    if os.fork() == 0:
        rows = [(0x20, 0, 0, 0), (0x15, 0, 3, 321), (0x20, 0, 0, 16), (0x15, 0, 1, command),
                (0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7fff0000)]
        code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *row) for row in rows))
        program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(rows), ctypes.addressof(code)))
        assert libc.prctl(22, 2, program) == 0
        print(missing_bpf(), flush=True)
        os._exit(0)
    os.wait()
print(missing_bpf(), flush=True)
refuse(5, errno.ENOSYS)
refuse(28, errno.EINVAL)
os.system("mount -t tmpfs none /sys/kernel/btf")
print(missing_bpf())
"""


@pytest.mark.long
def test_what_a_kernel_was_built_without() -> None:
    """The commands are BPF_PROG_LOAD and BPF_LINK_CREATE."""
    done = vm("--", "python3", "-c", WITHOUT)
    nothing, load, attach, btf, *_ = done.stdout.decode().splitlines()
    assert nothing == ""
    assert load == (
        "it loads no sockops program (ENOSYS (Function not implemented)): CONFIG_BPF_SYSCALL=y is needed"
    )
    assert "attaches no sockops program" in attach
    assert attach.endswith("CONFIG_CGROUP_BPF=y is needed")
    assert "BTF" in btf


class Shell:
    """A shell in a guest, on a terminal of 33 rows and 111 columns."""

    def __init__(self) -> None:
        self.terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
        self.before = termios.tcgetattr(self.terminal)
        self.process = subprocess.Popen(
            vm_words(), cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self._seen = ""

    def type(self, line: str) -> None:
        os.write(self.terminal, line.encode())

    def until(self, pattern: str, seconds: float = 180) -> str:
        """What is shown until that is, with it."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self._seen)):
            assert select.select([self.terminal], [], [], end - time.monotonic())[0], self._seen
            self._seen += os.read(self.terminal, 65536).decode(errors="replace").replace("\r", "")
        shown, self._seen = self._seen[: match.end()], self._seen[match.end() :]
        return shown

    def run(self, line: str, seconds: float = 180) -> str:
        """What a line prints."""
        self.until(r"# $")
        self.type(f"{line}; echo E''ND\r")
        return self.until(r"\nEND\n", seconds).partition("\n")[2].removesuffix("END\n")


@pytest.fixture
def shell() -> Iterator[Shell]:
    made = Shell()
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.terminal)


@pytest.mark.long
def test_a_shell(shell: Shell, kernel: Kernel) -> None:
    shell.until(f"Linux {kernel.release}; `exit` or Ctrl-] ends the guest\n")
    assert shell.run("uname -r; id -u; stty size") == f"{kernel.release}\n0\n33 111\n"
    assert shell.run("command -v ip ss bpftool testbed") == "".join(
        f"/usr/bin/{name}\n" for name in ("ip", "ss", "bpftool", "testbed")
    )
    shell.until(r"# $")
    shell.type("sh -c 'echo be''gun; exec sleep 1000'\r")
    shell.until("begun\n")  # it has the terminal, not the shell's editor of lines any more
    shell.type("\x03")
    shell.until(r"# $")
    shell.type("exit 5\r")
    assert shell.process.wait(10) == 5
    assert termios.tcgetattr(shell.terminal) == shell.before


@pytest.mark.long
def test_a_shell_that_is_left(shell: Shell) -> None:
    shell.until(r"# $")
    gone = os.pidfd_open(qemu_of(shell.process.pid))
    shell.type("\x1d")
    assert shell.process.wait(10) == 0
    assert termios.tcgetattr(shell.terminal) == shell.before
    assert select.select([gone], [], [], 5)[0], "QEMU lives on"
    os.close(gone)


@pytest.mark.long
def test_a_check_in_a_shell(shell: Shell) -> None:
    assert "4 passed" in shell.run("testbed check -k port_929; echo $?")


def test_a_shell_needs_a_terminal(in_process: Run) -> None:
    done = in_process("vm", "--kernel", SERIES)
    assert done.returncode == ExitCode.USAGE
    assert "this is no terminal" in done.stderr
    assert "vm … -- CMD" in done.stderr
