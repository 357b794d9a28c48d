"""Attaching: a program of each kind counts what really happens, and no longer when its stack has closed."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.bpf.attach import Interface, attach
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.kinds import ProgramKind, Target
from testbed.bpf.program_set import Program, ProgramSet
from testbed.errors import ProgramError, UsageError
from testbed.kernel.cgroup import cgroup_root
from testbed.kernel.ownership import reap
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.lab.wait import DEADLINE_S, eventually
from tests.conftest import ROOT
from tests.machine import belongings, left_of
from tests.objects import COUNTER, compiled_all, kernel_objects, on_the_machine

# Of each type of program: its context, and what lets everything pass.
TYPES = {
    13: ("bpf_sock_ops", "1"),
    18: ("bpf_sock_addr", "1"),
    9: ("bpf_sock", "1"),
    25: ("bpf_sockopt", "1"),
    8: ("__sk_buff", "1"),
    16: ("sk_msg_md", "SK_PASS"),
    14: ("__sk_buff", "SK_PASS"),
    6: ("xdp_md", "XDP_PASS"),
    3: ("__sk_buff", "0"),
}
KINDS = list(ProgramKind)


def counting(number: int, kind: ProgramKind) -> str:
    context, result = TYPES[kind.prog_type]
    if kind is ProgramKind.SK_SKB_PARSER:
        result = "ctx->len"
    head = f'SEC("{kind.section}") int on_{kind.name.lower()}(struct {context} *ctx)'
    return f"{head} {{ counted({number}); return {result}; }}\n"


SOURCE = (
    COUNTER.replace("max_entries, 4", f"max_entries, {len(KINDS)}")
    + """
struct { __uint(type, BPF_MAP_TYPE_SOCKHASH); __uint(max_entries, 4);
	__type(key, __u32); __type(value, __u32); } sockets SEC(".maps");
SEC("socket") int filter(struct __sk_buff *ctx) { return 0; }
"""
    + "".join(counting(number, kind) for number, kind in enumerate(KINDS))
)


def program_of(counters: ProgramSet, kind: ProgramKind) -> Program:
    return counters.programs[f"on_{kind.name.lower()}"]


@pytest.fixture(scope="module")
def counters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProgramSet]:
    made = compiled_all(tmp_path_factory.mktemp("objects"), {"counters": SOURCE})
    with ObjectLoader() as loader, load_objects(loader, [made["counters"]]) as loaded:
        assert loaded.failures == ()
        yield loaded


def interface(host: Host) -> Interface:
    return Interface(host.namespace.netns_fd, host.ends[0].index, host.ends[0].name)


def target(kind: ProgramKind, counters: ProgramSet, lab: Lab) -> int | Interface:
    by_target = {Target.CGROUP: lab.cgroup_fd, Target.SOCKMAP: counters.maps["sockets"].fd}
    return by_target.get(kind.target, interface(lab["client"]))


def stream(lab: Lab, counters: ProgramSet, version: int) -> None:
    """A connection whose ends are in the sockhash while a byte goes over it."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    sockets = counters.maps["sockets"]
    with lab["server"].listen(family) as listener:
        address = lab["server"].address(version)
        with (
            lab["client"].connect(address, listener.getsockname()[1]) as client,
            listener.accept()[0] as server,
        ):
            for number, sock in enumerate((client, server)):
                sockets.set(number.to_bytes(4, "little"), sock.fileno().to_bytes(4, "little"))
            client.getpeername()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            server.settimeout(DEADLINE_S)
            client.send(b"x")
            assert server.recv(9) == b"x"
            for number in range(2):
                sockets.delete(number.to_bytes(4, "little"))


def datagram(lab: Lab, version: int) -> None:
    """One on unconnected sockets, the receiver's bound."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with (
        lab["client"].socket(family, socket.SOCK_DGRAM) as client,
        lab["server"].socket(family, socket.SOCK_DGRAM) as server,
    ):
        server.settimeout(DEADLINE_S)
        server.bind((str(lab["server"].address(version)), 0))
        client.sendto(b"x", (str(lab["server"].address(version)), server.getsockname()[1]))
        assert server.recvfrom(9)[0] == b"x"


def traffic(lab: Lab, counters: ProgramSet) -> None:
    for version in (4, 6):
        stream(lab, counters, version)
        datagram(lab, version)


def count(counters: ProgramSet, kind: ProgramKind) -> int:
    value = counters.maps["count"].typed[KINDS.index(kind)]
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
def test_it_counts_until_the_stack_closes(
    counters: ProgramSet, lab: Lab, kind: ProgramKind, links: bool
) -> None:
    before = count(counters, kind)
    held = kernel_objects()
    with ExitStack() as stack:
        if kind is ProgramKind.SK_SKB_PARSER:  # runs only before a verdict
            verdict = program_of(counters, ProgramKind.SK_SKB_VERDICT)
            attach(verdict, target(kind, counters, lab), stack, links=False)
        program = program_of(counters, kind)
        assert program.kind is kind
        attach(program, target(kind, counters, lab), stack, links=links)
        attached = kernel_objects() - held
        assert len(attached) == links
        traffic(lab, counters)
        assert count(counters, kind) > before
    after = count(counters, kind)
    traffic(lab, counters)
    assert count(counters, kind) == after
    eventually(lambda: not attached & on_the_machine())
    assert shown(lab["client"]) == shown(lab["server"])


def shown(host: Host) -> list[str]:
    """What iproute2 tells of programs and classifiers on an interface."""
    name = host.ends[0].name
    texts = [
        host.run(command).stdout for command in (["ip", "-d", "link", "show", name], ["tc", "qdisc", "show"])
    ]
    return [word for word in " ".join(texts).split() if word.startswith(("prog", "xdp", "clsact", "qdisc"))]


def test_packets_of_a_datagram(counters: ProgramSet, lab: Lab) -> None:
    kinds = (ProgramKind.SKB_EGRESS, ProgramKind.SKB_INGRESS, ProgramKind.XDP, ProgramKind.TC_EGRESS)
    before = [count(counters, kind) for kind in kinds]
    with ExitStack() as stack:
        for kind in kinds:
            attach(program_of(counters, kind), target(kind, counters, lab), stack)
        datagram(lab, 4)
        # one packet: out of and into a socket of the lab, out of the client's interface and not into it
        assert [count(counters, kind) - was for kind, was in zip(kinds, before, strict=True)] == [1, 1, 0, 1]


def test_both_directions_share_a_clsact_that_may_be_somebodys(counters: ProgramSet, lab: Lab) -> None:
    host = lab["client"]
    ingress, egress = (program_of(counters, kind) for kind in (ProgramKind.TC_INGRESS, ProgramKind.TC_EGRESS))
    with ExitStack() as first, ExitStack() as second:
        attach(egress, interface(host), first, links=False)
        attach(ingress, interface(host), second, links=False)
        assert "clsact" in shown(host)
        second.close()
        before = [count(counters, kind) for kind in (ProgramKind.TC_INGRESS, ProgramKind.TC_EGRESS)]
        traffic(lab, counters)
        assert count(counters, ProgramKind.TC_INGRESS) == before[0]
        assert count(counters, ProgramKind.TC_EGRESS) > before[1]
    assert "clsact" not in shown(host)
    host.run(["tc", "qdisc", "add", "dev", host.ends[0].name, "clsact"])
    with ExitStack() as stack:
        attach(egress, interface(host), stack, links=False)
    assert "clsact" in shown(host)


Aim = Callable[[ProgramSet, Lab], "int | Interface"]


@pytest.mark.parametrize(
    ("program", "aim", "error", "words"),
    [
        ("filter", lambda _, lab: lab.cgroup_fd, UsageError, r"attach filter \(socket\): a lab has nothing"),
        ("on_sockops", lambda _, lab: interface(lab["client"]), UsageError, "of sockops needs a cgroup"),
        ("on_sk_msg", lambda _, lab: interface(lab["client"]), UsageError, "of sk_msg needs a sockhash"),
        ("on_xdp", lambda _, lab: lab.cgroup_fd, UsageError, "of xdp needs an interface"),
        ("on_sockops", lambda made, _: made.maps["count"].fd, UsageError, "of sockops needs a cgroup"),
        ("on_sk_msg", lambda _, lab: lab.cgroup_fd, UsageError, "of sk_msg needs a sockhash or sockmap"),
        ("on_sk_msg", lambda made, _: made.maps["count"].fd, UsageError, "of sk_msg needs a sockhash"),
        (
            "on_xdp",
            lambda _, lab: Interface(lab["client"].namespace.netns_fd, 77, "x"),
            ProgramError,
            "ENODEV",
        ),
        ("on_xdp", lambda _, lab: Interface(lab.cgroup_fd, 1, "x"), ProgramError, "EINVAL"),
    ],
)
@pytest.mark.parametrize("links", [True, False])
def test_what_cannot_be_attached(
    counters: ProgramSet, lab: Lab, program: str, aim: Aim, error: type[Exception], words: str, links: bool
) -> None:
    held = kernel_objects()
    with ExitStack() as stack, pytest.raises(error, match=words):
        attach(counters.programs[program], aim(counters, lab), stack, links=links)
    assert kernel_objects() == held


KILLED = """
import signal, sys
from contextlib import ExitStack
from pathlib import Path
from testbed.bpf.attach import attach
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.elf.loader import ObjectLoader
from testbed.lab.bench import Bench
from testbed.lab.lab import Lab
from testbed.topology.load import load_topology
from tests.e2e.test_attach import target
loader = ObjectLoader()
loaded = load_objects(loader, [Path(sys.argv[1])])
bench, stack = Bench(), ExitStack()
lab = Lab(bench, load_topology("pair"))
for program in loaded.programs.values():
    if program.kind:
        attach(program, target(program.kind, loaded, lab), stack)
print("attached", flush=True)
signal.pause()
"""


def test_a_killed_process_leaves_nothing_attached(tmp_path: Path) -> None:
    made = compiled_all(tmp_path, {"counters": SOURCE})
    command = [sys.executable, "-c", KILLED, str(made["counters"])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "attached\n"
        held = belongings(process.pid)
        process.kill()
    assert {what.split()[0] for what in held} >= {"prog", "map", "link", "process"}
    with cgroup_root() as root:
        reap(root, strict=False)
    eventually(
        lambda: not left_of(held),
        awaited=lambda: f"nothing left of {left_of(held)}",
        deadline=10,
    )
