"""The tap: every callback, in order, of this lab alone; and never a flag of its own."""

from __future__ import annotations

import pytest

from testbed.errors import EventsLost, UsageError
from testbed.kernel.sockdiag import TcpState, socket_cookie
from testbed.kmesh.mesh import Mesh
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.observe.callbacks import CallbackFlag, Op
from testbed.observe.recorder import Recorder
from testbed.observe.tap import Tap, TapProgram
from testbed.topology.load import load_topology


def test_callbacks_of_a_connection(pair: Pair, tap: Tap) -> None:
    with pair.connect() as connection:
        client = [each.op for each in tap.of(connection.client)]
        assert client == [Op.TCP_CONNECT, Op.RWND_INIT, Op.TIMEOUT_INIT, Op.NEEDS_ECN, Op.ACTIVE_ESTABLISHED]
        (passive,) = tap.of(connection.server, Op.PASSIVE_ESTABLISHED)
        assert passive.cookie == socket_cookie(connection.server)
        assert passive.host == "server"
        assert (passive.local, passive.remote) == (connection.tuple.dst, connection.tuple.src)
        assert (passive.local_port, passive.remote_port) == (connection.tuple.dport, connection.tuple.sport)
        assert passive.family == pair.family.listener


def test_no_flag_without_a_program(pair: Pair, tap: Tap) -> None:
    with pair.connect():
        pass
    pair.lab.settle()
    assert {each.flags for each in tap} == {CallbackFlag(0)}
    assert Op.STATE not in {each.op for each in tap}


def test_state_changes_of_a_watched_socket(pair: Pair, mesh: Mesh, tap: Tap) -> None:
    mesh.manage(pair.client)
    with pair.connect() as connection:
        cookie = socket_cookie(connection.client)
    pair.lab.settle()
    changes = [each.change[1] for each in tap if each.cookie == cookie and each.op is Op.STATE]
    assert changes[0] is TcpState.FIN_WAIT1
    assert changes[-1] is TcpState.CLOSE


def test_times_ascend_and_the_story_has_a_line_each(pair: Pair, tap: Tap) -> None:
    with pair.connect():
        times = [each.time_ns for each in tap]
    assert times == sorted(times)
    assert len(tap.story().splitlines()) == 1 + len(times)


def test_one_tap_at_a_time(bench: Bench, tap_program: TapProgram, tap: Tap) -> None:
    with Lab(bench, load_topology("pair")) as other, pytest.raises(UsageError, match="taps another lab"):
        tap_program.tap(other)
    assert len(tap) == 0


def test_an_untapped_labs_callbacks_are_not_recorded(bench: Bench, tap: Tap) -> None:
    with Lab(bench, load_topology("pair")) as other, Pair(other, Family.V6).connect():
        assert len(tap) == 0


def test_a_callback_of_a_newer_kernel_has_a_number() -> None:
    assert (Op(99).name, int(Op(99))) == ("OP_99", 99)


@pytest.mark.families("v6")
def test_a_full_ring_is_an_error(pair: Pair, tap: Tap, recorder: Recorder) -> None:
    """1 MiB holds about 7,700 callbacks; nobody reads while more than that come."""
    recorder.close()
    with pair.listen() as listener:
        for _ in range(1300):
            pair.connect(listener=listener).close()
    with pytest.raises(EventsLost, match=r"the tap lost \d+ callbacks"):
        len(tap)
    story = recorder.story("t", "title", "passed")
    assert story.connections, "what was not lost is told"
    assert any("callbacks" in words for words in story.lost)
