"""As little as it takes: four capabilities, each of them named where it is missing; brokers have two."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.errors import MachineError
from testbed.kernel import privileges
from testbed.kernel.privileges import BITS, NEEDED_FOR, SCENARIOS, need, refusal
from testbed.lab.lab import Lab
from tests.conftest import ROOT, Run
from tests.labs import lab_up

ALL = ("CAP_DAC_OVERRIDE", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN")
NOBODY = 65534


def with_only(*names: str, user: int = 0) -> tuple[str, ...]:
    """The words before a command that gives it these capabilities and no other."""
    given = ",".join(("-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in names)))
    if not user:  # root gets at an exec what the bounding set leaves
        return ("setpriv", f"--bounding-set={given}")
    who = (f"--reuid={user}", f"--regid={user}", "--clear-groups")
    return ("setpriv", *who, f"--bounding-set={given}", f"--inh-caps={given}", f"--ambient-caps={given}")


def without(name: str) -> tuple[str, ...]:
    return tuple(each for each in ALL if each != name)


def test_the_documented_capabilities_are_enough(testbed_command: Run) -> None:
    done = testbed_command("check", "-k", "enrols", "--family", "v4", prefix=with_only(*ALL))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("name", [ALL[0], *(pytest.param(each, marks=pytest.mark.long) for each in ALL[1:])])
def test_each_of_them_is_needed_and_named(testbed_command: Run, name: str) -> None:
    arguments = ("check", "-k", "enrols", "--family", "v4")
    done = testbed_command(*arguments, prefix=with_only(*without(name)))
    assert done.returncode == 3
    said, *rest = done.stderr.splitlines()
    assert re.search(rf"lacks {name}, which it needs to {re.escape(NEEDED_FOR[name])}$", said), said
    assert len(rest) <= 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.parametrize("user", [0, NOBODY], ids=["root", "nobody"])
def test_a_lab_that_stays_up_takes_no_more(testbed_command: Run, tmp_path: Path, user: int) -> None:
    """Also for who is not root: capabilities are what counts."""
    os.chown(tmp_path, user, user)
    name, prefix = f"few-{user}", with_only(*ALL, user=user)
    env = {"HOME": str(tmp_path), "TESTBED_STATE": str(tmp_path / "state")}
    steps = {
        ("up", "pair", "--name", name): f"{name} is up",
        ("exec", "-l", name, "client", "--", "cat", "/proc/net/dev"): "eth0",
        ("exec", "-l", name, "client", "--", "ip", "link", "set", "eth0", "mtu", "1400"): "",
        ("watch", "-l", name, "--for", "0"): "",
        ("maps", "-l", name): "managed",
        ("check", "-k", "enrols", "--family", "v4"): "1 passed",
        ("down", name): f"{name} is down",
        ("gc",): "",
    }
    for words, expected in steps.items():
        done = testbed_command(*words, prefix=prefix, env=env)
        assert done.returncode == 0, (words, done.stderr)
        assert expected in done.stdout, words


@pytest.mark.long
def test_a_lab_of_another_user(testbed_command: Run, tmp_path: Path) -> None:
    """It can be used; to end it, its keeper must be one's own, or CAP_KILL there."""
    os.chown(tmp_path, NOBODY, NOBODY)
    prefix, env = with_only(*ALL, user=NOBODY), {"HOME": str(tmp_path), "TESTBED_STATE": str(tmp_path)}
    with lab_up("of-root", "pair"):
        used = testbed_command("exec", "-l", "of-root", "client", "--", "true", prefix=prefix, env=env)
        assert used.returncode == 0
        done = testbed_command("down", "of-root", prefix=prefix, env=env)
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        assert "lacks CAP_KILL, which it needs to end the processes of another user" in line


@pytest.mark.long
def test_a_lab_without_packets(testbed_command: Run) -> None:
    """CAP_NET_RAW is needed for packets alone; who captures in that lab is told so."""
    prefix = with_only(*without("CAP_NET_RAW"))
    assert testbed_command("up", "pair", "--name", "no-raw", prefix=prefix).returncode == 0
    try:
        done = testbed_command("capture", "-l", "no-raw", "client", "--count", "1")
    finally:
        assert testbed_command("down", "no-raw").returncode == 0
    assert done.returncode == 3
    assert "CAP_NET_RAW" in done.stderr


IN_A_LAB = """
import socket, sys
from testbed.errors import MachineError
from testbed.lab.bench import Bench
from testbed.lab.lab import Lab
from testbed.topology.load import load_topology
try:
    with Bench() as bench, Lab(bench, load_topology("pair")) as lab:
        lab["client"].socket(socket.AF_PACKET, socket.SOCK_RAW).close()
except MachineError as error:
    sys.exit(f"cannot {error}")
"""


@pytest.mark.parametrize("name", [ALL[0], *(pytest.param(each, marks=pytest.mark.long) for each in ALL[1:])])
def test_the_refusals_of_the_kernel_are_explained(name: str) -> None:
    """Where nobody has asked before it was tried: in tests that people write."""
    done = subprocess.run(
        [*with_only(*without(name)), sys.executable, "-c", IN_A_LAB],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"lacks {name}, which it needs to" in done.stderr.splitlines()[0]


def test_who_has_none_is_told_to_be_root(testbed_command: Run) -> None:
    done = testbed_command("gc", prefix=("setpriv", f"--reuid={NOBODY}", "--clear-groups"))
    assert done.returncode == 3
    assert "it needs root" in done.stderr
    assert "CAP_" not in done.stderr


def test_a_refusal_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(1, *SCENARIOS) == "EPERM (Operation not permitted)"
    monkeypatch.setattr(privileges, "missing", lambda names: list(names)[:1])
    assert refusal(-1, "CAP_NET_RAW").endswith(
        "this process lacks CAP_NET_RAW, which it needs to see, hold and send packets"
    )
    assert refusal(2, "CAP_NET_RAW") == "ENOENT (No such file or directory)"
    with pytest.raises(MachineError, match=r"^do it: this process lacks CAP_NET_ADMIN"):
        need("do it")


def test_a_user_namespace_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "in_user_namespace", lambda: True)
    assert "in a user namespace" in refusal(1, *SCENARIOS)


def capabilities(text: str) -> dict[str, int]:
    return {name: int(value, 16) for name, value in re.findall(r"^Cap(\w+):\s*(\w+)", text, re.MULTILINE)}


def test_brokers_drop_what_they_do_not_need(lab: Lab) -> None:
    mine = capabilities(Path("/proc/self/status").read_text(encoding="ascii"))
    for host in lab.hosts.values():
        theirs = capabilities(Path(f"/proc/{host.namespace.pid}/status").read_text(encoding="ascii"))
        assert theirs["Eff"] == 1 << BITS["CAP_NET_ADMIN"] | 1 << BITS["CAP_NET_RAW"]
        assert theirs["Prm"] == mine["Prm"]


def test_a_command_on_a_host_has_the_rights_of_who_runs_it(lab: Lab, tmp_path: Path) -> None:
    """Also where it is run: in a directory of somebody else's that nobody else may enter."""
    mine = capabilities(Path("/proc/self/status").read_text(encoding="ascii"))
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    os.chown(private, NOBODY, NOBODY)
    done = lab["client"].run(["cat", "/proc/self/status"], cwd=private)
    assert capabilities(done.stdout)["Eff"] == mine["Eff"]
