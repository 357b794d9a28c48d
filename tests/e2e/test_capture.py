"""Packets and socket states of a lab: all of them, in order, of this lab alone; a loss is an error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.bpf.elf.loader import ObjectLoader
from testbed.errors import EventsLost, MachineError, UsageError
from testbed.kernel.sockdiag import TcpState, socket_cookie
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.lab.sockets import reset
from testbed.observe import states as states_module
from testbed.observe.capture import CaptureProgram
from testbed.observe.segments import Segment, TcpFlag, decode_frame
from testbed.observe.states import StatesProgram, states_absent
from testbed.topology.load import load_topology

SYN, ACK, FIN, PSH = TcpFlag.SYN, TcpFlag.ACK, TcpFlag.FIN, TcpFlag.PSH
S = TcpState


@pytest.fixture(scope="module")
def program(object_loader: ObjectLoader) -> Iterator[CaptureProgram]:
    with CaptureProgram(object_loader) as made:
        yield made


@pytest.fixture(scope="module")
def states_program(object_loader: ObjectLoader) -> Iterator[StatesProgram]:
    with StatesProgram(object_loader) as made:
        yield made


def segment(data: bytes) -> Segment:
    found = decode_frame(data)
    assert isinstance(found, Segment)
    return found


def test_every_segment_of_a_connection(lab: Lab, family: Family, program: CaptureProgram) -> None:
    with program.capture(lab) as capture:
        with Pair(lab, family).connect() as connection:
            connection.client.sendall(b"hello")
            assert connection.server.recv(9) == b"hello"
        lab.settle()
        seen = [
            (each.sender, segment(each.data).flags, segment(each.data).payload) for each in capture.frames
        ]
    first_fin = seen.index(("client", FIN | ACK, b""))
    if seen[first_fin + 1] == ("server", ACK, b""):
        del seen[first_fin + 1]  # this process was not run for 40 ms between both closes
    assert seen == [
        ("client", SYN, b""),
        ("server", SYN | ACK, b""),
        ("client", ACK, b""),
        ("client", PSH | ACK, b"hello"),
        ("server", ACK, b""),
        ("client", FIN | ACK, b""),
        ("server", FIN | ACK, b""),
        ("client", ACK, b""),
    ]
    assert {frame.receiver for frame in capture.frames if frame.sender == "client"} == {"server"}
    tuples = [segment(frame.data).tuple for frame in capture.frames]
    assert set(tuples) == {connection.tuple, connection.tuple.reversed}


def test_a_segment_is_there_when_send_returns_and_larger_ones_are_whole(
    lab: Lab, program: CaptureProgram
) -> None:
    with Pair(lab).connect() as connection, program.capture(lab) as capture:
        for size in (1, 100, 1000, 30_000):
            data = bytes([size % 251]) * size
            connection.client.sendall(data)
            segments = [segment(frame.data) for frame in capture.frames if frame.sender == "client"]
            assert b"".join(each.payload for each in segments).endswith(data)
            assert all(frame.length == len(frame.data) for frame in capture.frames)


@pytest.mark.topology("waypoint")
def test_each_link_of_several(lab: Lab, program: CaptureProgram) -> None:
    """One socket sees both links of the host in the middle, and nothing of its loopback."""
    server, middle = lab["server"], lab["waypoint"]
    address = server.address(4)
    with program.capture(lab) as both, program.capture(lab, links=[1]) as one:
        with server.listen() as listener, lab["client"].connect(address, listener.getsockname()[1]):
            pass
        with middle.listen() as listener, middle.connect("127.0.0.1", listener.getsockname()[1]):
            pass
        lab.settle()
        hops = [(each.sender, each.receiver) for each in both.frames if segment(each.data).flags == SYN]
        assert [each._replace(time_ns=0) for each in one.frames] == [
            each._replace(time_ns=0) for each in both.frames if each.link == 1
        ]
    assert hops == [("client", "waypoint"), ("waypoint", "server")]


def test_nothing_of_another_lab(bench: Bench, lab: Lab, program: CaptureProgram) -> None:
    with (
        Lab(bench, load_topology("pair")) as other,
        program.capture(lab) as ours,
        program.capture(other) as theirs,
    ):
        with Pair(other).connect():
            pass
        other.settle()
        assert (len(ours.frames), len(theirs.frames)) == (0, len(theirs)) != (0, 0)


def test_what_is_told_after_the_end_is_what_was_there_then(lab: Lab, program: CaptureProgram) -> None:
    with program.capture(lab) as capture, Pair(lab).connect():
        pass
    with Pair(lab).connect():
        pass
    assert (len(capture.frames), capture.story()) == (
        len(capture),
        f"frames on the links: client–server: {len(capture)}",
    )


def test_eight_captures_at_a_time(lab: Lab, program: CaptureProgram) -> None:
    captures = [program.capture(lab) for _ in range(8)]
    with pytest.raises(UsageError, match="eight captures are open"):
        program.capture(lab)
    for each in captures:
        each.close()


def test_a_full_ring_is_an_error(bench: Bench, lab: Lab, object_loader: ObjectLoader) -> None:
    """4 KiB hold 24 frames; a connection has 6 and more. A capture that lost none is whole."""
    with (
        CaptureProgram(object_loader, 4096) as small,
        Lab(bench, load_topology("pair")) as quiet,
        small.capture(quiet) as whole,
        small.capture(lab) as capture,
    ):
        for _ in range(5):
            Pair(lab).connect().close()
        lab.settle()
        with pytest.raises(EventsLost, match=r"capture of client–server lost \d+ frames"):
            capture.read()
        assert capture.lost + len(capture) >= 5 * 6
        whole.read()


def test_a_burst_is_not_lost(lab: Lab, program: CaptureProgram) -> None:
    """What comes between two reads: 2,000 connections have 12,000 segments and more."""
    pair = Pair(lab)
    with pair.listen() as listener, program.capture(lab) as capture:
        for _ in range(2000):
            pair.connect(listener=listener).close()
        lab.settle()
        capture.read()
        flags = [segment(each.data).flags for each in capture.frames]
        assert (flags.count(SYN), flags.count(SYN | ACK), flags.count(FIN | ACK)) == (2000, 2000, 4000)


CLIENT = [S.SYN_SENT, S.ESTABLISHED, S.FIN_WAIT1, S.FIN_WAIT2, S.CLOSE]
SERVER = [S.SYN_RECV, S.ESTABLISHED, S.CLOSE_WAIT, S.LAST_ACK, S.CLOSE]


def test_states_of_both_ends_without_a_flag(lab: Lab, family: Family, states_program: StatesProgram) -> None:
    with states_program.states(lab) as states:
        with Pair(lab, family).connect() as connection:
            ends = {
                "client": (socket_cookie(connection.client), connection.tuple, CLIENT),
                "server": (socket_cookie(connection.server), connection.tuple.reversed, SERVER),
            }
        lab.settle()
        for host, (cookie, wanted, expected) in ends.items():
            seen = [each for each in states.changes if each.cookie == cookie]
            assert [each.new for each in seen] == expected
            assert {each.host for each in seen} == {host}
            assert {each.tuple for each in seen} == {wanted}


def test_a_socket_that_connects_twice(lab: Lab, states_program: StatesProgram) -> None:
    """A refused attempt never had a port that the change names; the next one's is its own."""
    pair = Pair(lab)
    with pair.listen() as listener, pair.client_socket() as sock, states_program.states(lab) as states:
        with pytest.raises(ConnectionRefusedError):
            sock.connect((str(pair.server.address(4)), 1))
        with pair.connect(sock, listener=listener) as connection:
            cookie = socket_cookie(sock)
            seen = [(each.new, each.tuple) for each in states.changes if each.cookie == cookie]
            assert seen == [
                (S.SYN_SENT, None),
                (S.CLOSE, None),
                (S.SYN_SENT, connection.tuple),
                (S.ESTABLISHED, connection.tuple),
            ]
            reset(connection.server)
            ends = [connection.tuple.reversed, connection.tuple]
            lab.eventually(
                lambda: [each.tuple for each in states.changes if each.new is S.CLOSE][-2:] == ends
            )


def test_states_of_another_lab_are_not_recorded(
    bench: Bench, lab: Lab, states_program: StatesProgram
) -> None:
    with Lab(bench, load_topology("pair")) as other, states_program.states(lab) as states:
        with pytest.raises(UsageError, match="another lab's"):
            states_program.states(other)
        with Pair(other).connect():
            states.read()
            assert len(states) == 0


def test_a_full_ring_of_states_is_an_error(lab: Lab, object_loader: ObjectLoader) -> None:
    with StatesProgram(object_loader, 4096) as small, small.states(lab) as states:
        for _ in range(7):
            Pair(lab).connect().close()
        with pytest.raises(EventsLost, match=r"\d+ changes of socket states were lost"):
            states.read()


def test_a_kernel_that_cannot_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("btf")
    (folder / "btf").write_bytes(b"nothing\0")
    assert "CONFIG_BPF_EVENTS" in states_absent(folder / "btf")
    assert "ENOENT" in states_absent(folder / "none")
    monkeypatch.setattr(states_module, "states_absent", lambda: "socket states: no way")
    with pytest.raises(MachineError, match="record socket states: no way"):
        StatesProgram()
