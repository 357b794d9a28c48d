"""Keepers of labs: whom they bear with, and what is left when they end."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from testbed.cli import app
from testbed.errors import ExitCode, TestbedError, UsageError
from testbed.keeper import protocol
from testbed.keeper.client import Client
from testbed.keeper.end import take_down
from testbed.keeper.registry import living, socket_path
from testbed.kernel import ownership
from testbed.kernel.cgroup import processes
from testbed.lab.wait import eventually
from testbed.logs import log_folder
from tests.conftest import ROOT, Run
from tests.labs import TESTBED, lab_up
from tests.machine import Held, belongings, cgroups_of, left_of

NAME = f"k{os.getpid()}"


@pytest.fixture(scope="module")
def up() -> Iterator[dict[str, Any]]:
    with lab_up(NAME, "pair") as about:
        yield about


@pytest.fixture
def client(up: dict[str, Any]) -> Iterator[Client]:  # noqa: ARG001 (it is up)
    with Client(NAME) as made:
        yield made


def assert_gone(held: Held) -> None:
    def left() -> set[str]:
        return left_of(held)

    eventually(
        lambda: not left(), awaited=lambda: f"nothing left of the lab, but there is: {left()}", deadline=10
    )


def raw_client() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(socket_path(NAME)))
    sock.settimeout(10)
    return sock


@pytest.mark.parametrize("data", [b"\xff" * 1000, b"{", b"x" * 70_000, b'{"request": "about", "version": 3}'])
def test_garbage_is_answered_and_harms_nobody(client: Client, data: bytes) -> None:
    with raw_client() as sock, Path(os.devnull).open(encoding="utf-8") as file:
        socket.send_fds(sock, [data], [file.fileno()])
        message, _ = protocol.receive(sock)
        assert message["error"]["code"] == ExitCode.USAGE
    assert client.ask(protocol.About())["name"] == NAME


def test_clients_that_go_away_or_never_read_harm_nobody(client: Client, up: dict[str, Any]) -> None:
    descriptors = Path(f"/proc/{up['pid']}/fd")
    client.ask(protocol.Inspect())  # what the first such request has it open stays open
    before = len(list(descriptors.iterdir()))
    with ExitStack() as stack:
        for _ in range(80):
            sock = stack.enter_context(raw_client())
            for _ in range(3):
                sock.send(b'{"request": "inspect"}')
        assert client.ask(protocol.About())["name"] == NAME
    client.ask(protocol.About())
    eventually(lambda: len(list(descriptors.iterdir())) <= before, awaited="no descriptor kept", deadline=20)


def told_to(client: Client) -> Iterator[dict[str, Any]]:
    while (message := client.next_message(10)) is not None:
        yield message


def test_who_watches_too_slowly_is_told_and_let_go(client: Client) -> None:
    with Client(NAME) as slow:
        slow.subscribe(protocol.Watch())
        for number in range(1200):
            client.ask(protocol.Manage(host="server", on=number % 2 == 0))
        messages = list(takewhile(lambda message: "dropped" not in message, told_to(slow)))
        assert messages
        with pytest.raises(TestbedError, match="it is gone"):
            slow.next_message(10)
    with Client(NAME) as again:
        again.subscribe(protocol.Watch())


def test_down_ends_all_of_it(testbed_command: Run) -> None:
    name = f"{NAME}-d"
    with lab_up(name, "pair", "--program-set", "none") as about:
        held = belongings(about["pid"])
        assert {what.split()[0] for what in held} >= {"cgroup", "process", "netns"}
        with sleeping(name, about["pid"]) as running, watching(name) as watcher:
            assert f"{name} is down\n" in testbed_command("down", name).stdout
            assert_told_of_the_end(running, name)
            assert watcher.communicate(timeout=10)[1] == f"testbed: the lab {name} was taken down\n"
            assert watcher.returncode == 0
    assert_gone(held)
    assert not (log_folder() / f"keeper-{name}.log").exists()


@contextmanager
def sleeping(name: str, keeper: int) -> Iterator[subprocess.Popen[str]]:
    """A command that runs on the lab's client."""
    words = [*TESTBED, "exec", "-l", name, "client", "--", "sleep", "1000"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        eventually(lambda: "sleep" in commands_in(keeper), awaited="sleep in the lab", deadline=10)
        yield running


@contextmanager
def watching(name: str) -> Iterator[subprocess.Popen[str]]:
    words = [*TESTBED, "watch", "-l", name, "--json"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as watcher:
        assert watcher.stderr is not None
        assert watcher.stderr.readline() == f"testbed: watching {name}\n"
        yield watcher


def assert_told_of_the_end(running: subprocess.Popen[str], name: str) -> None:
    assert running.communicate(timeout=10)[1] == f"testbed: the lab {name} went down, and sleep with it\n"
    assert running.returncode == 128 + signal.SIGKILL


def commands_in(pid: int) -> list[str]:
    return [
        Path(f"/proc/{each}/comm").read_text(encoding="utf-8").strip()
        for cgroup in cgroups_of(pid)
        for each in processes(cgroup)
    ]


def test_a_killed_keeper_takes_its_lab_along(testbed_command: Run) -> None:
    name = f"{NAME}-k"
    with lab_up(name, "pair") as about:
        held = belongings(about["pid"])
        with sleeping(name, about["pid"]) as running, watching(name) as watcher:
            os.kill(about["pid"], signal.SIGKILL)
            assert_told_of_the_end(running, name)
            assert "it is gone" in watcher.communicate(timeout=10)[1]
            assert watcher.returncode == ExitCode.CANNOT_RUN
        eventually(lambda: not Path(f"/proc/{about['pid']}").exists(), awaited="its end")
        assert f"{name} " not in testbed_command("ls").stdout
        assert_gone(held)
        assert not socket_path(name).exists()
        assert name not in testbed_command("gc").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ls", "removed what dead left: its keeper (process 1) is dead"),
        ("down --all", "removed what dead left: its keeper (process 1) is dead"),
        ("gc", "removed the lab dead, whose keeper (process 1) is dead"),
    ],
)
def test_what_was_removed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    """With records of the test's own: another run would remove these first."""
    monkeypatch.setattr(ownership, "REGISTRY", tmp_path)
    (tmp_path / "labs").mkdir()
    dead = {"name": "dead", "topology": "pair", "pid": 1, "since": 1.0, "command": "up"}
    (tmp_path / "labs/dead.json").write_text(json.dumps(dead), encoding="utf-8")
    result = CliRunner().invoke(app, words.split())
    assert said in result.output
    assert list((tmp_path / "labs").iterdir()) == []


@pytest.mark.long
def test_gc_removes_what_a_killed_keeper_left(testbed_command: Run) -> None:
    name = f"{NAME}-g"
    with lab_up(name, "pair", "--program-set", "none") as about:
        keeper = os.pidfd_open(about["pid"])
        os.kill(about["pid"], signal.SIGKILL)
        assert select.select([keeper], [], [], 20)[0], "it lives on"
        os.close(keeper)
        assert testbed_command("gc").returncode == 0
        assert not socket_path(name).exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        pytest.param(signal.SIGTERM, 128 + signal.SIGTERM, marks=pytest.mark.long),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_an_up_that_is_interrupted_leaves_nothing(number: signal.Signals, code: int) -> None:
    name = f"{NAME}-i"
    # so many hosts that it is not ready before it is interrupted
    words = [*TESTBED, "up", "scale", "--name", name, "--count", "client=60", "--count", "server=60"]
    with (
        ExitStack() as stack,
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as starting,
    ):
        record = eventually(lambda: living(name), awaited="its record", deadline=10)
        assert record is not None
        stack.callback(take_down, record)
        eventually(lambda: cgroups_of(record.pid), awaited="its cgroup", deadline=10)
        starting.send_signal(number)
        assert starting.wait(20) == code
    eventually(lambda: living(name) is None, awaited="no lab of that name", deadline=10)
    eventually(lambda: not cgroups_of(record.pid), awaited="no cgroup of it", deadline=10)


@pytest.mark.long
def test_what_keeps_it_from_coming_up_is_told(testbed_command: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.o").write_bytes(b"no object")
    done = testbed_command("up", "pair", "--name", f"{NAME}-b", "--object", str(tmp_path / "bad.o"))
    assert done.returncode == ExitCode.USAGE
    assert "bad.o" in done.stderr
    assert living(f"{NAME}-b") is None


@pytest.mark.long
def test_two_labs_side_by_side(up: dict[str, Any]) -> None:  # noqa: ARG001 (that is the one)
    with (
        lab_up(f"{NAME}-2", "pair", "--program-set", "none"),
        pytest.raises(UsageError, match="several are up"),
    ):
        Client()


@pytest.mark.long
def test_root_is_needed(testbed_command: Run) -> None:
    prefix = ("setpriv", "--reuid", "65534", "--clear-groups")
    for words in (
        ("ls",),
        ("up", "pair"),
        ("exec", "client", "--", "true"),
        ("watch",),
        ("maps",),
        ("down",),
    ):
        done = testbed_command(*words, prefix=prefix)
        assert done.returncode == ExitCode.CANNOT_RUN, words
        assert done.stderr.startswith("testbed: cannot ")
        assert "run it with sudo" in done.stderr


def test_programs_on_one_host(tmp_path: Path) -> None:
    """What the topology says, as far as there is somebody to be told."""
    name = f"{NAME}-h"
    (tmp_path / "mine.yaml").write_text(
        "{name: mine, hosts: {left: {managed: true}, right: {managed: true}}, links: [[left, right]],"
        " programs: [{set: reference, at: left}]}",
        encoding="utf-8",
    )
    with lab_up(name, str(tmp_path / "mine.yaml")) as about, Client(name) as client:
        assert "note: right is not managed: no program set" in about["said"]
        inspected = client.ask(protocol.Inspect())
        assert [bool(host["managed"]) for host in inspected["hosts"]] == [True, False]
        assert {each["at"] for each in inspected["attached"]} == {"left's cgroup", "its sockhash"}
        with pytest.raises(TestbedError, match="manage right"):
            client.ask(protocol.Manage(host="right", on=True))


@pytest.mark.long
def test_links_and_bridges_as_they_are(testbed_command: Run) -> None:
    name = f"{NAME}-b"
    with lab_up(name, "bridge", "--count", "pod=1", "--program-set", "none"):
        testbed_command("exec", "-l", name, "pod-1", "--", "ip", "link", "set", "eth0", "mtu", "1400")
        lines = [" ".join(line.split()) for line in testbed_command("inspect", name).stdout.splitlines()]
    assert "pod-1-node pod-1:eth0 – node:eth0 (port of br0) 1400 – 1500" in lines
    assert "node:br0 eth0 1500" in lines


SCRIPT = """import socket, subprocess, sys
with socket.create_server(('', 8000)), socket.create_connection(('10.77.0.1', 8000)):
    subprocess.run(sys.argv[1:])
"""


@pytest.mark.usefixtures("up")
def test_a_shell_without_a_terminal_knows_its_lab(testbed_command: Run) -> None:
    """And the storage that `maps` finds there is decoded."""
    inner = shlex.join([sys.executable, "-c", SCRIPT, *TESTBED, "maps", "storage"])
    typed = ("sh", "-c", 'printf "%s\\n" "$0" | "$@"', f"echo $-\n{inner}")
    flags, _, line = testbed_command("shell", "-l", NAME, "client", prefix=typed).stdout.splitlines()
    assert "i" not in flags
    assert re.match(r"  socket \d+ of client, 10\.77\.0\.1:\d+ → 10\.77\.0\.1:8000: connect_ns \d+, ", line)
    assert ", direction OUTBOUND, " in line
    assert line.endswith(", asked_for 10.77.0.1:8000")
