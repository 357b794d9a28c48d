"""Labs on the real kernel: what is made, what it is like, what is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from testbed.errors import MachineError, TestbedError, UsageError, WaitExpired
from testbed.kernel.cgroup import await_end
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.host import CommandFailed, Host
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.topology.load import load_topology

ETH_P_ALL = 3


def names_of_namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout  # noqa: S607


def links_of_this_namespace() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def namespace_of(fd: int) -> int:
    return os.fstat(fd).st_ino


def test_nothing_has_a_name_outside(lab: Lab) -> None:
    assert "client" not in names_of_namespaces()
    assert "eth1" not in links_of_this_namespace()
    own = Path("/proc/self/ns/net").stat().st_ino
    inodes = {namespace_of(host.namespace.netns_fd) for host in lab.hosts.values()}
    assert len(inodes | {own}) == 3


def test_cgroups_are_nested(lab: Lab) -> None:
    for name, host in lab.hosts.items():
        assert (lab.cgroup_path / name).is_dir()
        assert str(host.namespace.pid) in (lab.cgroup_path / name / "cgroup.procs").read_text().split()


def test_a_socket_is_of_its_host(lab: Lab) -> None:
    for host in lab.hosts.values():
        with host.socket() as sock:
            assert type(sock) is socket.socket
            assert sock.gettimeout() is None
            sock.bind((str(host.address(4)), 0))  # nowhere else is this address


def test_no_copy_of_a_socket_is_left(pair: Pair) -> None:
    """close() here is the last one: when it returns, no descriptor holds the socket any more."""
    for _ in range(50):
        connection = pair.connect()
        connection.client.close()
        held = [sock for sock in pair.client.tcp_sockets() if sock.inode]
        assert held == []
        connection.server.close()


@pytest.fixture
def wire(lab: Lab) -> Iterator[socket.socket]:
    """Everything that the client's interface sends or receives, from now on."""
    with lab["client"].socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock:
        sock.bind(("eth0", ETH_P_ALL))
        sock.setblocking(False)
        yield sock


def captured(sock: socket.socket) -> list[Packet]:
    packets: list[Packet] = []
    try:
        while True:
            packets.append(Ether(sock.recv(65536)))
    except BlockingIOError:
        return packets


def test_the_wire_is_quiet(pair: Pair, wire: socket.socket) -> None:
    """Nothing but the connection's own segments: no ARP, no neighbour discovery, no reports."""
    with pair.connect() as connection:
        sport = connection.tuple.sport
    pair.lab.settle()
    packets = captured(wire)
    layer = IPv6 if pair.family is Family.V6 else IP
    foreign = [packet.summary() for packet in packets if layer not in packet or TCP not in packet]
    assert not foreign
    flags = [(packet[TCP].sport == sport, str(packet[TCP].flags)) for packet in packets]
    assert flags[:3] == [(True, "S"), (False, "SA"), (True, "A")]
    assert flags.count((True, "FA")) == flags.count((False, "FA")) == 1


def test_the_first_syn_is_never_lost(bench: Bench) -> None:
    """A connection right after set-up: no retransmission on either side, in 30 labs, v4 and v6."""
    topology = load_topology("pair")
    for _ in range(30):
        with Lab(bench, topology) as lab:
            for family in (Family.V6, Family.V4):
                with Pair(lab, family).connect() as connection:
                    for sock in (connection.client, connection.server):
                        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
                        assert int.from_bytes(info[100:104], "little") == 0, "tcpi_total_retrans"


def test_run_gives_output_and_code(lab: Lab) -> None:
    done = lab["client"].run(["sh", "-c", "cat; echo problem >&2; exit 3"], data="input", check=False)
    assert (done.code, done.stdout, done.stderr) == (3, "input", "problem\n")


def test_run_is_in_the_host(lab: Lab) -> None:
    done = lab["server"].run(["ip", "-br", "addr", "show", "dev", "eth0"])
    assert "10.77.0.2/24" in done.stdout
    done = lab["server"].run(["cat", "/proc/self/cgroup"])
    assert done.stdout.strip().endswith("/lab/server")


def test_a_command_can_be_waited_for_and_closed_again(lab: Lab) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        with lab["client"].spawn(["sh", "-c", "exit 7"], stdin=null, stdout=null, stderr=null) as command:
            assert (command.wait(), command.wait(), command.kill()) == (7, 7, 7)
            command.close()
    finally:
        os.close(null)


@pytest.mark.parametrize("name", ["INT", "PIPE", "TERM"])
def test_commands_take_signals_as_usual(lab: Lab, name: str) -> None:
    done = lab["client"].run(["sh", "-c", 'kill -"$0" $$; echo still here', name], check=False)
    assert (done.code, done.stdout) == (-signal.Signals[f"SIG{name}"], "")


def test_run_expects_success(lab: Lab) -> None:
    with pytest.raises(CommandFailed, match=r"false on client ended with 1"):
        lab["client"].run(["false"])


def test_run_of_what_is_not_there(lab: Lab) -> None:
    with pytest.raises(UsageError, match=r"run no-such-command on client: No such file"):
        lab["client"].run(["no-such-command"])


def test_a_command_that_takes_too_long_is_killed(lab: Lab) -> None:
    with pytest.raises(WaitExpired, match=r"awaited for 0.05 s: the end of sleep 1000"):
        lab["client"].run(["sleep", "1000"], deadline=0.05)
    procs = lab.cgroup_path / "client" / "cgroup.procs"
    lab.eventually(lambda: len(procs.read_text().split()) == 1, awaited="only the broker left in the cgroup")


def test_a_killed_broker_is_an_error_that_says_so(lab: Lab) -> None:
    host = lab["client"]
    os.kill(host.namespace.pid, signal.SIGKILL)
    with pytest.raises(TestbedError, match="the broker of client: it is gone"):
        host.socket()


def test_the_kernels_refusal_is_the_callers_error(lab: Lab) -> None:
    with pytest.raises(OSError, match="Protocol not supported"):
        lab["client"].socket(socket.AF_INET, socket.SOCK_STREAM, 222)


def test_closing_leaves_no_process_and_no_cgroup(bench: Bench) -> None:
    lab = Lab(bench, load_topology("pair"))
    pids = [host.namespace.pid for host in lab.hosts.values()]
    cgroup = lab.cgroup_path
    lab.close()
    assert not cgroup.parent.exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_daemon_goes_with_its_lab(bench: Bench) -> None:
    with Lab(bench, load_topology("pair")) as lab:
        lab["client"].run(["setsid", "--fork", "sleep", "1000"])
        procs = lab.cgroup_path / "client" / "cgroup.procs"
        broker = str(lab["client"].namespace.pid)
        # besides the broker: the daemon, and for an instant what waited for the command
        lab.eventually(lambda: len(procs.read_text().split()) == 2)
        (pid,) = (int(pid) for pid in procs.read_text().split() if pid != broker)
        daemon = os.pidfd_open(pid)
    assert await_end(daemon, deadline=0), "it lives on"
    os.close(daemon)


def test_descriptors_do_not_grow(bench: Bench) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    topology = load_topology("pair")
    Lab(bench, topology).close()
    before = count()
    for _ in range(5):
        with Lab(bench, topology) as lab, Pair(lab).connect():
            lab.settle()
            lab["client"].run(["true"])
    assert count() == before


def test_settle_says_what_moves(pair: Pair) -> None:
    """A SYN that nobody answers is not at rest."""
    with pair.client.socket() as sock:
        sock.setblocking(False)
        assert sock.connect_ex(("10.99.0.1", 80)) != 0
        with pytest.raises(WaitExpired, match=r"client: 10\.77\.0\.1:\d+ → 10\.99\.0\.1:80 SYN_SENT"):
            pair.lab.settle(deadline=0.01)
    pair.lab.settle()


def test_a_bound_socket_is_at_rest(pair: Pair) -> None:
    """Neither connected nor listening; since Linux 6.8 sock_diag lists it all the same."""
    with pair.client.socket() as sock:
        sock.bind(("10.77.0.1", 0))
        pair.lab.settle()


def test_a_second_connection_on_one_listener(pair: Pair) -> None:
    with (
        pair.listen() as listener,
        pair.connect(listener=listener) as one,
        pair.connect(listener=listener) as two,
    ):
        assert one.tuple != two.tuple
        assert one.tuple.dport == two.tuple.dport


def test_an_address_that_is_added_later_resolves(pair: Pair) -> None:
    """Nobody asks for its MAC: every neighbour has the same one."""
    pair.client.run(["ip", "addr", "add", "10.77.0.9/24", "dev", "eth0"])
    with pair.server.listen() as listener, pair.client.socket() as sock:
        sock.bind(("10.77.0.9", 0))
        pair.client.connect(pair.server.address(4), listener.getsockname()[1], sock=sock)


def test_two_labs_side_by_side(bench: Bench) -> None:
    with ExitStack() as stack:
        labs = [stack.enter_context(Lab(bench, load_topology("pair"))) for _ in range(2)]
        for lab in labs:
            with Pair(lab).connect():
                lab.settle()


def test_a_failed_set_up_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Lab) -> None:
        raise MachineError("link the hosts", "refused")

    monkeypatch.setattr(Lab, "_link_hosts", refuse)
    with pytest.raises(MachineError, match="refused"):
        Lab(bench, load_topology("pair"))
    assert [path.name for path in bench.cgroup.iterdir() if path.is_dir()] == ["idle"]


def test_an_address_of_a_version_that_it_has_not() -> None:
    host = Host.__new__(Host)
    host.name, host.ends = "bare", []
    with pytest.raises(UsageError, match="take an IPv4 address of bare: it has none"):
        host.address(4)
