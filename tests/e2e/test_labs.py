"""Labs that stay up: every command, as a person gives it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from testbed.cli import app
from testbed.errors import ExitCode, TestbedError
from testbed.keeper import protocol
from testbed.keeper.client import Client
from testbed.lab.wait import eventually
from tests.conftest import ROOT, Run
from tests.labs import TESTBED, lab_up

NAME = f"t{os.getpid()}"


@pytest.fixture(scope="module")
def up() -> Iterator[dict[str, Any]]:
    with lab_up(NAME, "pair") as about:
        yield about


@pytest.fixture
def client(up: dict[str, Any]) -> Iterator[Client]:  # noqa: ARG001 (it is up)
    with Client(NAME) as made:
        yield made


def command(*words: str) -> tuple[str, str]:
    """A command in this process: (what it wrote, its error)."""
    result = CliRunner().invoke(app, words)
    assert result.exception is None or isinstance(result.exception, TestbedError | SystemExit)
    if isinstance(result.exception, TestbedError):
        assert result.exception.exit_code is ExitCode.USAGE
        return result.stdout, str(result.exception)
    return result.stdout, ""


def test_up_shows_what_there_is(up: dict[str, Any]) -> None:
    assert up["said"].splitlines()[:4] == [
        f"{NAME} is up, of pair; process {up['pid']} keeps it",
        "  client  10.77.0.1/24  fd77::1/64",
        "  server  10.77.0.2/24  fd77::2/64",
        "  at work in the whole lab: reference (sockops.c, connect.c, sendmsg.c) by bcc",
    ]
    assert re.search(r"shell (-l \S+ )?client", up["said"])  # another lab may be up


def test_ls(up: dict[str, Any]) -> None:
    (row,) = [each for each in json.loads(command("ls", "--json")[0]) if each["name"] == NAME]
    assert (row["hosts"], row["pid"], row["topology"]) == (["client", "server"], up["pid"], "pair")
    assert f"{NAME}  " in command("ls")[0]


def test_the_second_is_told_who_has_the_name(up: dict[str, Any], testbed_command: Run) -> None:
    done = testbed_command("up", "triangle", "--name", NAME)
    assert done.returncode == ExitCode.USAGE
    assert f"process {up['pid']} keeps it since" in done.stderr
    assert "of pair" in done.stderr


def test_inspect(client: Client) -> None:
    listener = start_listener(client)
    with listener:
        shown, _ = command("inspect", NAME)
        about = client.ask(protocol.Inspect())
    assert "default via 10.77.0.2 dev eth0" in shown
    assert "LISTEN" in shown
    assert all(str(each["id"]) in shown and each["name"] in shown for each in about["attached"])
    hosts = {each["name"]: each for each in about["hosts"]}
    assert Path(f"/proc/{hosts['client']['pid']}/ns/net").stat().st_ino == hosts["client"]["netns"]
    assert json.loads(command("inspect", NAME, "--json")[0])["name"] == NAME


def start_listener(client: Client) -> subprocess.Popen[bytes]:
    """A process on the server that listens, for one connection."""
    code = "import socket; s = socket.create_server(('', 8000)); print(flush=True); s.accept()[0].send(b'x')"
    process = subprocess.Popen(
        [*TESTBED, "exec", "-l", client.record.name, "server", "--", sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return Stopping(process)  # type: ignore[return-value]


class Stopping:
    """Ends a process with its block."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


CONNECT = (sys.executable, "-c", "import socket; socket.create_connection(('10.77.0.2', 8000)).recv(1)")


@pytest.mark.parametrize(
    ("words", "code", "stdout", "stderr"),
    [
        (("cat", "/proc/self/cgroup"), 0, "/lab/client\n", ""),
        (("sh", "-c", "cat; exit 7"), 7, "", ""),
        (("sh", "-c", "kill -KILL $$"), 128 + signal.SIGKILL, "", ""),
        (("no-such-command",), 127, "", "cannot run no-such-command: ENOENT"),
        (("/etc/passwd",), 126, "", "EACCES"),
        (("sh", "-c", "echo $TESTBED_HOST >&2"), 0, "", "client"),
    ],
)
def test_exec(
    client: Client, testbed_command: Run, words: tuple[str, ...], code: int, stdout: str, stderr: str
) -> None:
    done = testbed_command("exec", "-l", client.record.name, "client", "--", *words)
    assert done.returncode == code
    assert stdout in done.stdout
    assert stderr in done.stderr
    assert "went down" not in done.stderr


@pytest.mark.usefixtures("up")
def test_exec_passes_signals_on() -> None:
    script = 'trap "exit 9" TERM; echo; while :; do read -t 0.01 x; done'
    with subprocess.Popen(
        [*TESTBED, "exec", "-l", NAME, "client", "--", "bash", "-c", script], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("exec", "clint", "--", "true"), "did you mean client?"),
        (("exec", "client"), "none is given"),
        (("capture", "client:eth1"), "did you mean eth0?"),
        (("maps", "manged"), "did you mean managed?"),
        (("maps", "observe"), "has no entries"),
        (("impair", "client-sever", "clear"), "did you mean client-server?"),
        (("impair", "client-server"), "nothing says how"),
        (("impair", "client-server", "delay=ten"), "delay"),
        (("manage", "nobody"), "hosts: client, server"),
        (("watch", "nobody"), "hosts: client, server"),
    ],
)
@pytest.mark.usefixtures("up")
def test_what_is_not_there(arguments: tuple[str, ...], said: str) -> None:
    assert said in command(arguments[0], "-l", NAME, *arguments[1:])[1]


def answer(client: Client, request: protocol.Request) -> str:
    try:
        return str(client.ask(request))
    except TestbedError as error:
        return str(error)


def test_impair(client: Client) -> None:
    """Where the kernel has no netem that is said."""
    said = answer(client, protocol.Impair(link="client:eth0", words=["delay=1ms"]))
    assert "'delay=1ms', 'from': ['client']" in said or "impair client:eth0: this kernel has no" in said
    said = answer(client, protocol.Impair(link="client:eth0", words=["clear"]))
    assert "'impair': ''" in said or "CONFIG_NET_SCH_NETEM" in said


def test_manage_and_maps(client: Client) -> None:
    lab = ("-l", NAME)
    assert "managed are 10.77.0.2, fd77::2" in command("manage", *lab, "server")[0]
    shown, _ = command("maps", *lab, "managed")
    assert "  10.77.0.2: 0\n" in shown
    assert "namespace of server" in shown
    listed = {each["role"]: each for each in client.ask(protocol.Maps())}
    assert listed["managed"]["entries"] == 3
    assert listed["sockhash"]["type"] == "sockhash"
    assert "none of its addresses" in command("unmanage", *lab, "server")[0]
    (dump,) = client.ask(protocol.Maps(name="managed"))
    assert dump["items"] == []


def test_watch(client: Client, testbed_command: Run) -> None:
    client.ask(protocol.Manage(host="server", on=True))
    with subprocess.Popen(
        [*TESTBED, "watch", "-l", NAME, "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stderr is not None
        assert watching.stdout is not None
        watching.stderr.readline()
        with start_listener(client):
            testbed_command("exec", "-l", NAME, "client", "--", *CONNECT)
        client.ask(protocol.Manage(host="server", on=False))
        seen: dict[str, list[str]] = {}
        for line in watching.stdout:
            event = json.loads(line)
            seen.setdefault(event["kind"], []).append(event["text"])
            if event["text"] == "managed − 10.77.0.2":
                break
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
    assert any("PASSIVE_ESTABLISHED" in text for text in seen["callback"])
    assert seen["segment"][0].startswith("SYN ")
    assert any("INBOUND/ESTABLISHED" in text for text in seen["record"])


@pytest.mark.usefixtures("up")
def test_watch_ends_by_itself() -> None:
    assert command("watch", "-l", NAME, "--for", "0.05") == ("", "")


@pytest.mark.parametrize("file", [None, pytest.param("x.pcapng", marks=pytest.mark.long)])
def test_capture(client: Client, testbed_command: Run, tmp_path: Path, file: str | None) -> None:
    words = ["-w", str(tmp_path / file)] if file else []
    with subprocess.Popen(
        [*TESTBED, "capture", "-l", NAME, "client", "--count", "3", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as capturing:
        assert capturing.stderr is not None
        assert "capturing client-server" in capturing.stderr.readline()
        with start_listener(client):
            testbed_command("exec", "-l", NAME, "client", "--", *CONNECT)
        stdout, stderr = capturing.communicate(timeout=10)
    assert capturing.returncode == 0
    assert stderr == "testbed: 3 packets, 0 lost\n"
    if file:
        assert (tmp_path / file).read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
    else:
        assert [" SYN " in line or " SYN,ACK " in line for line in stdout.splitlines()] == [True, True, False]


@pytest.mark.usefixtures("up")
def test_a_shell_has_the_terminal(tmp_path: Path) -> None:
    """Ctrl-Z stops what runs in it, and not the shell; its prompt says where it is."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ.update(SHELL="/bin/bash", TERM="dumb", HOME=str(tmp_path))
        os.execv(TESTBED[0], [*TESTBED, "shell", "-l", NAME, "client"])  # noqa: S606
    with ExitStack() as stack:
        stack.callback(os.close, terminal)
        said = hear(terminal, rf"\({NAME}/client\)")
        os.write(terminal, b"sleep 1000\r")
        hear(terminal, "sleep 1000")
        eventually(lambda: foreground_is(terminal, "sleep"), awaited="sleep in the foreground")
        os.write(terminal, b"\x1a")
        hear(terminal, rf"Stopped.*\({NAME}/client\)")
        os.write(terminal, b"kill -9 %1; fg; exit 5\r")
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 5
    assert "cannot set terminal" not in said


def foreground_is(terminal: int, name: str) -> bool:
    try:
        return Path(f"/proc/{os.tcgetpgrp(terminal)}/comm").read_text(encoding="utf-8").strip() == name
    except OSError:
        return False


def hear(terminal: int, words: str) -> str:
    said = ""
    while not re.search(words, said, re.DOTALL):
        assert select.select([terminal], [], [], 10)[0], said
        said += os.read(terminal, 4096).decode()
    return said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("up", "pair", "--name", "A b"), "lower-case letters"),
        (("up", "nonesuch"), "nonesuch"),
        (("up", "pair", "--program-set", "all"), "topology, reference, none"),
        (("up", "pair", "--abi", "main"), "--object names none"),
        (("up", "pair", "--object", "/no/such.o"), "no such file"),
        (("down", "--all", "pair"), "one or the other"),
        (("inspect", "no-such-lab"), "neither a file nor a lab that is up"),
    ],
)
def test_what_makes_no_sense(arguments: tuple[str, ...], said: str) -> None:
    assert said in command(*arguments)[1]
