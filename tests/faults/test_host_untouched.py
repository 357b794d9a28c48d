"""Nothing but its labs is touched by a run: the machine is as it was, and so is what belongs to others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from testbed.bpf.elf.loader import ObjectLoader
from testbed.gates import Any as AnySegment
from testbed.gates import Data, Link
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.observe.tap import Tap
from tests import untouched
from tests.conftest import ROOT, Run
from tests.faults.foreign import Foreign, foreign
from tests.host import OF_OTHER_TESTS, Snapshot, differences, snapshot
from tests.labs import lab_up


@pytest.fixture(scope="module")
def others(object_loader: ObjectLoader) -> Iterator[Foreign]:
    with foreign(object_loader) as made:
        yield made


def changed(before: Snapshot) -> list[str]:
    return [line for line in differences(before, snapshot()) if not OF_OTHER_TESTS.search(line)]


def the_contract(testbed_command: Run) -> None:
    assert testbed_command("check", "-k", "enrols", "--family", "v4").returncode == 0


def a_lab_that_stays_up(testbed_command: Run) -> None:
    with lab_up("untouched", "pair") as _:
        for words in (
            ("exec", "-l", "untouched", "client", "--", "ip", "link", "set", "eth0", "mtu", "1400"),
            ("manage", "-l", "untouched", "client"),
            ("maps", "-l", "untouched"),
            ("watch", "-l", "untouched", "--for", "0"),
        ):
            assert testbed_command(*words).returncode == 0, words
        impaired = testbed_command("impair", "-l", "untouched", "client-server", "delay=1ms")
        assert impaired.returncode in {0, 3}, impaired.stderr  # a kernel without netem


def collecting_what_is_left(testbed_command: Run) -> None:
    assert testbed_command("gc").returncode == 0


@pytest.mark.parametrize(
    "act",
    [
        the_contract,
        pytest.param(collecting_what_is_left, marks=pytest.mark.long),
        pytest.param(a_lab_that_stays_up, marks=pytest.mark.long),
    ],
    ids=lambda act: act.__name__,
)
def test_what_belongs_to_others_is_as_it_was(others: Foreign, testbed_command: Run, act: Run) -> None:
    """A lab of another run, programs on cgroups, namespaces with and without a name, a pinned program."""
    state, before = others.state(), snapshot()
    assert state["lab"] is True
    assert len(state["attached"]) == 2  # type: ignore[arg-type]
    act(testbed_command)
    assert others.state() == state
    assert changed(before) == []


def test_a_recorded_lab_with_gates_leaves_the_machine_as_it_was(pair: Pair, tap: Tap, link: Link) -> None:
    before = snapshot()
    with link.hold(Data) as held, pair.connect() as connection:
        connection.client.sendall(b"x")
        held.seen()
        assert changed(before) == []
        held.release()
        connection.server.recv(1)
    pair.lab.settle()
    assert len(tap) > 0
    assert changed(before) == []


@pytest.mark.long
def test_what_is_done_to_a_namespace_is_seen(lab: Lab, link: Link, tmp_path: Path) -> None:
    """The comparison can fail: with a link, an address, a route … more, in a namespace that bears it."""
    host, file = lab["client"], tmp_path / "before.json"
    look = [sys.executable, "-m", "tests.host"]
    host.run([*look, "snapshot", str(file)], cwd=ROOT)
    done = host.run([*look, "compare", str(file)], cwd=ROOT, check=False)
    assert not [line for line in done.stdout.splitlines() if not OF_OTHER_TESTS.search(line)]
    expected = {"links", "addresses", "routes", "rules", "permanent neighbours", "sysctls", "qdiscs"}
    for words in (
        "ip link add extra type veth peer name other",
        "ip address add 10.9.9.9/32 dev lo",
        "ip route add unreachable 10.99.0.0/16",
        "ip -6 rule add to fd99::/16 table 7",
        "ip neighbour add 10.77.0.77 lladdr 02:00:00:00:00:01 dev eth0 nud permanent",
        "tc qdisc replace dev eth0 root pfifo",
    ):
        host.run(words.split())
    host.namespace.sysctl({"net/ipv4/ip_default_ttl": "63"})
    if shutil.which("iptables-nft"):
        host.run(["iptables-nft", "-A", "INPUT", "-j", "ACCEPT"])
        expected.add("netfilter")
    with link.hold(AnySegment):
        done = host.run([*look, "compare", str(file)], cwd=ROOT, check=False)
    assert done.code == 1, done.stderr
    kinds = {line[2:].partition(":")[0] for line in done.stdout.splitlines()}
    assert kinds >= expected
    assert kinds & {"filters", "BPF"}
    assert "+ sysctls: net/ipv4/ip_default_ttl = 63" in done.stdout.splitlines()


def test_a_program_on_a_cgroup_is_seen(others: Foreign) -> None:
    now = snapshot()
    without = {**now, "BPF": [line for line in now["BPF"] if others.cgroups[0].name not in line]}
    (line,) = differences(without, now)
    assert line.startswith(f"+ BPF: cgroup {others.cgroups[0]}: type 3, programs [")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"links": ["eth0"]}, {"links": ["eth0"]}, []),
        ({"links": ["eth0 up"]}, {"links": ["eth0 down"]}, ["- links: eth0 up", "+ links: eth0 down"]),
        ({}, {"pins": ["/sys/fs/bpf/x"]}, ["+ pins: /sys/fs/bpf/x"]),
        ({"modules": []}, {"modules": ["sch_netem"]}, []),
        (
            {"cgroups seen": ["/c"]},
            {"cgroups seen": ["/c"], "BPF": ["cgroup /c: x"]},
            ["+ BPF: cgroup /c: x"],
        ),
        ({}, {"cgroups seen": ["/c"], "BPF": ["cgroup /c: x"]}, []),
    ],
)
def test_differences_are_named(before: Snapshot, after: Snapshot, expected: list[str]) -> None:
    assert differences(before, after) == expected


def test_what_another_session_makes_meanwhile_fails_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """But everything else does; where another run is at work, what could be anybody's does not."""
    for kind, line, others, outcome in (
        ("named namespaces", f"foreign-{'0' * 16} 1", False, pytest.ExitCode.OK),
        ("named namespaces", "x 1", False, pytest.ExitCode.TESTS_FAILED),
        ("named namespaces", "x 1", True, pytest.ExitCode.OK),
        ("sysctls", "x = 1", True, pytest.ExitCode.TESTS_FAILED),
    ):
        found = {kind: [line]}
        monkeypatch.setattr(untouched, "snapshot", lambda found=found: found)
        monkeypatch.setattr(untouched, "others_live", lambda others=others: others)
        session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
        untouched.Untouched({}).pytest_sessionfinish(session)  # type: ignore[arg-type]
        assert session.exitstatus is outcome


@pytest.mark.long
def test_a_session_that_touches_the_machine_fails(tmp_path: Path) -> None:
    """In a network namespace of its own, so that it is not this machine's setting."""
    (tmp_path / "test_touch.py").write_text(
        "from pathlib import Path\n"
        "def test_it():\n"
        "    Path('/proc/sys/net/ipv4/ip_default_ttl').write_text('63')\n",
        encoding="utf-8",
    )
    words = ("-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path))
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "pytest", *words, str(tmp_path)],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "+ sysctls: net/ipv4/ip_default_ttl = 63" in done.stdout
