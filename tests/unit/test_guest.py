"""What guests are made of, and how what they say is read. No guest is started here."""

from __future__ import annotations

import importlib.util
import io
import marshal
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.guest.bytecode import compiled
from testbed.guest.console import Console
from testbed.guest.cpio import Archive
from testbed.guest.inside.kmsg import first_splat
from testbed.guest.libraries import closure, library
from testbed.guest.line import Line
from testbed.guest.messages import Done
from testbed.guest.pace import Pace
from testbed.guest.state import GuestState
from testbed.guest.system import find_system


def written(archive: Archive) -> bytes:
    buffer = io.BytesIO()
    archive.write(buffer)
    return buffer.getvalue()


def test_an_archive_is_unpacked_by_others(tmp_path: Path) -> None:
    archive = Archive()
    archive.file("/a/b/text", b"hello", 0o640)
    archive.link("/a/link", "b/text")
    archive.directory("/empty", 0o700)
    data = written(archive)
    assert len(data) % 512 == 0
    subprocess.run(
        [shutil.which("busybox") or "busybox", "cpio", "-id"],
        input=data + data,
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "a/link").read_text() == "hello"
    assert (tmp_path / "a/b/text").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o700


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    first, second = Archive(), Archive()
    (tmp_path / "x").write_bytes(b"data")
    first.file("/x", b"data")
    second.file("/x", tmp_path / "x")
    assert written(first) == written(second)


def test_a_module_is_taken_as_it_is_compiled(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("value = 1\n")
    data = compiled(source)
    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert data[4:8] == b"\1\0\0\0", "unchecked: a guest's files have no times"
    source.write_text("value = 22\n")  # whatever is cached now is stale
    names: dict[str, int] = {}
    exec(marshal.loads(compiled(source)[16:]), names)  # noqa: S102, S302
    assert names["value"] == 22


def test_libraries_are_those_that_the_linker_takes() -> None:
    listed = subprocess.run(
        ["/usr/bin/ldd", sys.executable], capture_output=True, text=True, check=True
    ).stdout
    found = closure([Path(sys.executable).resolve()])
    assert {Path(word).name for word in listed.split() if word.startswith("/")} == {
        Path(path).name for path in found
    }
    assert library("libbpf.so.1") is not None
    assert library("libnothing.so.9") is None


def test_a_system_is_another_when_anything_in_it_changes() -> None:
    first, second = find_system({"tap.o": b"1"}), find_system({"tap.o": b"2"})
    assert first.digest() == find_system({"tap.o": b"1"}).digest()
    assert first.digest() != second.digest()
    assert "/init" in first.made
    assert any(path.endswith("testbed/guest/inside/agent.py") for path in first.own)
    assert first.base_digest() == second.base_digest()
    assert not any("/test/" in path or path.endswith(".pyi") for path in first.files)


CONSOLES = [
    ("[    1.0] Kernel panic - not syncing: Fatal exception", GuestState.PANIC, "Fatal exception"),
    (
        "[ 3.1] Out of memory: Killed process 70 (python)\r\n[ 3.2] Kernel panic - not syncing: Attempted",
        GuestState.OUT_OF_MEMORY,
        "Out of memory: Killed process 70 (python)",
    ),
]


@pytest.mark.parametrize(("said", "state", "why"), CONSOLES)
def test_what_a_console_means(said: str, state: GuestState, why: str) -> None:
    console = Console()
    for start in range(0, len(said), 7):
        console.feed(said[start : start + 7].encode())
    assert console.verdict() == (state, why)


def test_a_quiet_console_means_nothing() -> None:
    console = Console()
    console.feed(b"\x1b[2J\x1b[01;31mbooting\x1b[m\r\n")
    assert console.verdict() is None
    assert console.tail == "booting"


SPLATS = [
    ("WARNING: CPU: 0 PID: 1 at net/core/sock.c:1 f+0x1/0x2", True),
    ("BUG: kernel NULL pointer dereference, address: 0000000000000008", True),
    ("WARNING: possible circular locking dependency detected", True),
    ("rcu: INFO: rcu_preempt self-detected stall on CPU", True),
    ("INFO: task kworker/0:1:12 blocked for more than 120 seconds.", True),
    ("refcount_t: underflow; use-after-free.", True),
    ("TCP: request_sock_TCP: Possible SYN flooding on port 80.", False),
    ("IPv6: ADDRCONF(NETDEV_CHANGE): veth0: link becomes ready", False),
]


@pytest.mark.parametrize(("line", "is_splat"), SPLATS)
def test_what_is_a_splat(line: str, is_splat: bool) -> None:
    lines = ["before", line, "Call Trace:", " f+0x1/0x2", "---[ end trace 0 ]---", "after"]
    assert first_splat(lines) == ("\n".join(lines[1:5]) if is_splat else "")


def test_what_has_not_our_nonce_is_no_message() -> None:
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = Line(ours)
        theirs.sendall(b'garbage\n0123456789abcdef {"event":"done"}\n' + f"{line.nonce} ".encode())
        assert line.take_in() == []
        theirs.sendall(b'{"event":"done"}\n')
        assert line.take_in() == [Done()]
        theirs.close()
        assert line.take_in() is None


def test_deadlines_of_a_slow_guest_are_longer() -> None:
    assert Pace.of(80e6).seconds(2) == 2
    assert Pace.of(4e6).seconds(2) == 20
    assert Pace.of(1.0) == Pace.slowest()
