"""The oracle: what it says of programs that are the reference with one mistake."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.bpf.elf.clang import compile_objects
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.program_set import ProgramSet
from testbed.data import data_dir
from testbed.kmesh.abi import Verdict
from testbed.kmesh.history import make_history
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.oracle.oracle import ContractViolation, Oracle
from testbed.kmesh.profile import load_profile
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.observe.tap import Tap
from tests.conftest import Run
from tests.e2e.test_plugin import pytest_in

Mutate = Callable[[str, str, str], ProgramSet]

# file, old, new, and what the oracle says of one connection, opened and closed, that was judged
MISTAKES = {
    "a figure": ("observe.h", "= tcp->rtt_min", "= tcp->srtt_us", ["OUTBOUND record: rtt_min"]),
    "an address": ("observe.h", "(storage->tuple.ipv4.dport)", "(80)", ["OUTBOUND record: orig_dst"]),
    "a field forgotten": (
        "observe.h",
        "	record->protocol = PROTOCOL_TCP;\n",
        "",
        ["INBOUND record: protocol"],
    ),
    "not zeroed": (
        "observe.h",
        "	__builtin_memset(record, 0, sizeof(*record));\n",
        "",
        ["INBOUND record: unused bytes", "OUTBOUND record: unused bytes"],
    ),
    "a request not zeroed": (
        "authorize.h",
        "	__builtin_memset(request, 0, sizeof(*request));\n",
        "",
        ["request: unused bytes"],
    ),
    "a tuple reversed": (
        "authorize.h",
        "tuple_remote_to_local(skops, &request->tuple",
        "tuple_local_to_remote(skops, &request->tuple",
        ["request: missing", "request: not called for"],
    ),
    "a verdict left": ("authorize.h", "	verdict_remove(&tuple);", "	;", ["verdicts: left"]),
    "a clock": ("observe.h", "= storage->connect_ns;", "= 1;", ["INBOUND record: start_ns"]),
    "unwatched": (
        "../sockops.c",
        "	observe_inbound(skops, sk);\n	watch_state(skops);",
        "	observe_inbound(skops, sk);",
        ["flags: none, not STATE"],
    ),
    "storage for everybody": (
        "../sockops.c",
        "	if (!sk || !is_managed(skops) || is_exempt",
        "	if (!sk || !storage_of(sk, BPF_SK_STORAGE_GET_F_CREATE) || is_exempt",
        ["storage: left"],
    ),
    "reported twice": (
        "../sockops.c",
        "	observe_inbound(skops, sk);\n",
        "	observe_inbound(skops, sk);\n	observe_inbound(skops, sk);\n",
        ["INBOUND/ESTABLISHED record: not called for"],
    ),
    "at another state": (
        "../sockops.c",
        "args[1] != BPF_TCP_CLOSE)",
        "args[1] != BPF_TCP_LAST_ACK)",
        ["INBOUND record: last_report_ns", "OUTBOUND/CLOSE record: missing"],
    ),
    "enrolled with another value": ("maps.h", "__u32 value = 0;", "__u32 value = 1;", ["managed map: value"]),
}


def mistaken(folder: Path, file: str, old: str, new: str) -> list[Path]:
    """The objects of the reference with one replacement."""
    subprocess.run(["cp", "-r", data_dir("bpf"), folder / "bpf"], check=True)  # noqa: S607
    path = folder / "bpf/include" / file
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{file} has no {old!r} any more"
    path.write_text(text.replace(old, new), encoding="utf-8")
    sources = [folder / f"bpf/{name}.c" for name in ("sockops", "connect")]
    return compile_objects(sources, [folder / "bpf/include"], folder)


@pytest.fixture
def mutate(object_loader: ObjectLoader, tmp_path: Path) -> Iterator[Mutate]:
    """The reference with one replacement, compiled and loaded."""
    with ExitStack() as stack:

        def made(file: str, old: str, new: str) -> ProgramSet:
            return stack.enter_context(load_objects(object_loader, mistaken(tmp_path, file, old, new)))

        yield made


def judged_connections(program_set: ProgramSet, lab: Lab, tap: Tap) -> list[str]:
    """What the oracle says of one that was reported and judged, and of one to an exempt server."""
    with Mesh(program_set, lab, load_profile("main")) as mesh:
        oracle = Oracle(mesh, tap)
        pair = Pair(lab, Family.V4)
        mesh.enrol(pair.client, pair.family)
        mesh.manage(pair.server)
        with pair.connect() as connection:
            mesh.verdicts[connection.tuple] = Verdict.DENY
        lab.settle()
        mesh.config.node_ip = pair.client.address(4)
        with pair.connect(), pytest.raises(ContractViolation) as caught:
            oracle.check()
        return list(caught.value.kinds)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told(mutate: Mutate, bench: Bench, lab: Lab, tap: Tap, name: str) -> None:
    file, old, new, expected = MISTAKES[name]
    program_set = mutate(file, old, new)
    if "zeroed" in name or "forgotten" in name:
        make_history(bench, program_set, load_profile("main"))
    told = judged_connections(program_set, lab, tap)
    assert set(expected) <= set(told)


def test_a_violation_shows_expected_against_seen(mutate: Mutate, lab: Lab, tap: Tap) -> None:
    program_set = mutate("observe.h", "= tcp->rtt_min", "= 7777")
    with Mesh(program_set, lab) as mesh, Pair(lab).connect():
        mesh.manage(lab["client"])
        with Pair(lab).connect() as connection, pytest.raises(ContractViolation) as caught:
            Oracle(mesh, tap).check()
    text = str(caught.value)
    assert f"record of {connection.tuple}: OUTBOUND/ESTABLISHED has a wrong rtt_min" in text
    assert f"      tuple          {connection.tuple}\n" in text
    assert "    ✗ rtt_min        expected " in text
    assert ", seen 7777\n" in text
    assert "ACTIVE_ESTABLISHED" in text
    assert text.count("TCP_CONNECT") == 1, "callbacks of other connections are no part of it"


def test_what_user_space_did_is_the_programs_due(mesh: Mesh, pair: Pair) -> None:
    """Verdicts of nobody's connection, stale values, monitoring off and on: told by the ledger."""
    mesh.managed.set_value(pair.client.address(pair.family.version), 3)
    mesh.manage(pair.server)
    with pair.connect() as connection:
        mesh.verdicts[connection.tuple.reversed] = Verdict.DENY
        mesh.config.monitoring = False
    pair.lab.settle()
    mesh.config.monitoring = True
    with pair.connect():
        pass


def test_behind_the_back_of_the_ledger(mesh: Mesh, tap: Tap) -> None:
    """A map that was written by other means is not as the contract says."""
    name = mesh.profile.map_name("managed")
    assert name is not None
    mesh.programs.maps[name].set(socket.inet_aton("10.0.0.9").ljust(16, b"\0"), bytes(4))
    with pytest.raises(ContractViolation, match=r"managed map: 10\.0\.0\.9: expected nothing, seen 0"):
        Oracle(mesh, tap).check()
    mesh.programs.maps[name].clear()


BEHIND = """
def test_it(mesh, pair):
    mesh.manage(pair.client)
    pair.connect().close()
    name = mesh.profile.map_name("managed")
    mesh.programs.maps[name].clear()
"""


@pytest.mark.long
def test_a_persons_test_is_judged_too(tmp_path: Path) -> None:
    """It asserts nothing, and fails."""
    done = pytest_in(tmp_path, BEHIND, "--family", "v4")
    assert done.returncode == 1, done.stdout
    assert "managed map: 10.77.0.1: expected 0, seen nothing" in done.stdout
    assert "1 failed" in done.stdout


@pytest.mark.long
def test_what_is_violated_everywhere_is_shown_once(testbed_command: Run, tmp_path: Path) -> None:
    """Old bytes are seen in the very first scenario: the fixture has made a history before it."""
    file, old, new, _ = MISTAKES["not zeroed"]
    objects = [word for path in mistaken(tmp_path, file, old, new) for word in ("--object", str(path))]
    done = testbed_command("check", "--family", "v4", "-k", "4_close", *objects)
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("FAIL 4_close::") < 4, "each kind of violation is shown whole once"
    assert re.search(r"^ +\d+ more scenarios failed as above: .*unused bytes", done.stdout, re.MULTILINE)
    rows = re.findall(r"^ +(\d+)  (\w+ record: unused bytes) +4_close::", done.stdout, re.MULTILINE)
    assert {kind for _, kind in rows} == {"INBOUND record: unused bytes", "OUTBOUND record: unused bytes"}
    assert all(int(count) > 5 for count, _ in rows)
