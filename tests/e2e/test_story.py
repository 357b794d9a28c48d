"""The story of a connection: everything that happened to it, from every witness, on one clock."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks.story import missing, recorded
from testbed.bpf.elf.loader import ObjectLoader
from testbed.kmesh.abi import Verdict
from testbed.kmesh.mesh import Mesh
from testbed.lab.pair import Pair
from testbed.observe.capture import CaptureProgram
from testbed.observe.events import Difference, Event, Kind
from testbed.observe.recorder import Recorder
from testbed.observe.sequence import draw_story
from testbed.observe.tap import Tap
from tests.e2e.test_plugin import pytest_in

BROKEN = """
import pytest
from testbed.kmesh.records import encode_tuple

@pytest.mark.families("v4")
def test_two(pair, mesh):
    mesh.manage(pair.client)
    with pair.connect():
        pass
    with pair.connect() as second:
        {line}
"""


def told(events: list[Event], kind: Kind) -> list[str]:
    return [each.text for each in events if each.kind is kind]


@pytest.mark.families("v4", "v6", "mapped-client")
def test_a_whole_connection(pair: Pair, mesh: Mesh, recorder: Recorder) -> None:
    mesh.manage(pair.client, pair.server)
    with pair.connect() as connection:
        mesh.authorize(lambda _: Verdict.DENY)
        connection.client.sendall(b"hello")
        connection.server.recv(5)
        connection.client.close()
    mesh.lab.settle()
    story = recorder.story("t", "title", "passed")
    (one,) = story.connections
    events = list(one.events)
    assert (one.tuple, one.client, one.server) == (connection.tuple, "client", "server")
    assert [each.time_ns for each in events] == sorted(each.time_ns for each in events)
    assert told(events, Kind.SEGMENT)[:3] == ["SYN", "SYN,ACK", "ACK"]
    assert "5 B at 1" in told(events, Kind.SEGMENT)
    names = [text.partition("(")[0] for text in told(events, Kind.CALL)]
    assert [name for name in names if name != "setsockopt"] == [
        "connect", "accept", "sendall", "recv", "close", "close"
    ]  # fmt: skip
    records = [text.partition(" ")[0] for text in told(events, Kind.RECORD)]
    assert records == [
        "OUTBOUND/ESTABLISHED", "INBOUND/ESTABLISHED", "authorization", "OUTBOUND/CLOSE", "INBOUND/CLOSE"
    ]  # fmt: skip
    changes = [text.removeprefix("by now ") for text in told(events, Kind.CHANGE)]
    assert [text for text in changes if "verdict" in text] == [
        f"user space: verdict + {one.tuple} DENY", f"verdict − {one.tuple}"
    ]  # fmt: skip
    assert "SYN_SENT → ESTABLISHED" in told(events, Kind.STATE)
    assert "LAST_ACK → CLOSE" in told(events, Kind.STATE)
    assert not story.lost
    assert {each.details.get("address") for each in story.others if each.kind is Kind.CHANGE} >= {
        str(address) for address in (*pair.client.addresses, *pair.server.addresses)
    }


@pytest.mark.families("v4")
def test_every_witness_in_the_order_of_what_caused_what(pair: Pair, mesh: Mesh, recorder: Recorder) -> None:
    mesh.manage(pair.client)
    with pair.connect():
        pass
    (one,) = recorder.story("t", "title", "passed").connections
    order = [
        "connect(", "CLOSE → SYN_SENT", "TCP_CONNECT", "SYN,ACK", "SYN_SENT → ESTABLISHED",
        "ACTIVE_ESTABLISHED", "OUTBOUND/ESTABLISHED", "ACK", "PASSIVE_ESTABLISHED", "accept(", "close(",
    ]  # fmt: skip
    places = [
        next(
            place
            for place, each in enumerate(one.events)
            if each.text.startswith(text) and each.text != f"{text},ACK"
        )
        for text in order
    ]
    assert places == sorted(places)


@pytest.mark.families("v4")
def test_a_change_is_told_where_the_program_made_it(pair: Pair, mesh: Mesh, recorder: Recorder) -> None:
    """the address enrolled by the program in its callback, not when user space looked"""
    mesh.enrol(pair.client, pair.family)
    (one,) = recorder.story("t", "title", "passed").connections
    callback = next(each for each in one.events if each.text == "TCP_CONNECT")
    (change,) = [each for each in recorder.events() if each.text.startswith("managed +")]
    assert (change.time_ns, change.details["address"]) == (callback.time_ns, str(pair.client.address(4)))


@pytest.mark.families("v4")
def test_nothing_is_noted_behind_the_recording(pair: Pair, mesh: Mesh, recorder: Recorder) -> None:
    recorder.close()
    mesh.manage(pair.client)
    with pair.client.socket() as sock:
        assert type(sock).__name__ == "socket"
    assert not [each for each in recorder.calls.calls if each.name == "connect"]


@pytest.mark.families("v4")
def test_only_the_connections_concerned(pair: Pair, recorder: Recorder) -> None:
    with pair.connect(), pair.connect() as second:
        wrong = Difference("request: missing", "a request", "none", second.tuple)
        story = recorder.story("t", "title", "failed", "", [wrong])
    (one,) = story.concerned()
    drawn = draw_story(story, connections={one.number})
    assert f"#2  {second.tuple}" in drawn
    assert "#1" not in drawn


@pytest.mark.parametrize(
    ("line", "shown", "hidden"),
    [
        (
            "mesh.map_of('auth_results').set(encode_tuple(second.tuple, 'little'), bytes(4))",
            "✗ verdicts: left",
            "#1",
        ),
        pytest.param("assert False", "#1", "✗", marks=pytest.mark.long),
    ],
)
def test_a_failure_tells_its_story(tmp_path: Path, line: str, shown: str, hidden: str) -> None:
    done = pytest_in(tmp_path, BROKEN.format(line=line))
    assert "#2  10.77.0.1:" in done.stdout
    assert "◆ ACTIVE_ESTABLISHED" in done.stdout
    assert shown in done.stdout
    assert f"\n{hidden}" not in done.stdout.partition("of no connection")[0].partition("- story -")[2]


@pytest.mark.long
def test_off_records_nothing(tmp_path: Path) -> None:
    done = pytest_in(
        tmp_path,
        BROKEN.format(line="assert type(second.client).__name__ == 'RecordedSocket'"),
        "--record",
        "off",
    )
    assert "1 failed" in done.stdout
    assert "- story -" not in done.stdout
    assert "callbacks that fired" in done.stdout


@pytest.mark.long
def test_ten_thousand_connections() -> None:
    story, _ = recorded(10_000)
    assert not missing(story, 10_000)
    assert len(story.connections) == 10_000


@pytest.mark.families("v4")
def test_what_was_lost_is_said(object_loader: ObjectLoader, pair: Pair, tap: Tap) -> None:
    """a ring of one page: the story is not whole, and the test is not failed by that"""
    with CaptureProgram(object_loader, 4096) as capture, Recorder(pair.lab, tap, capture=capture) as recorder:
        with pair.connect() as connection:
            connection.client.sendall(bytes(8192))
        story = recorder.story("t", "title", "passed")
    assert any("lost" in words and "frames" in words for words in story.lost)
    assert "✗ NOT WHOLE" in draw_story(story)


def test_threads_of_a_test_are_recorded(pair: Pair, mesh: Mesh, recorder: Recorder) -> None:
    """they make sockets, connect and close them while the test's own thread is told of"""
    mesh.manage(pair.client, pair.server)
    address = pair.family.as_client(pair.server.address(pair.family.version))
    with pair.listen() as listener:

        def visit() -> None:
            with pair.client_socket() as sock:
                sock.connect((address, listener.getsockname()[1]))
                sock.recv(1)

        threads = [threading.Thread(target=visit) for _ in range(24)]
        for thread in threads:
            thread.start()
        for _ in threads:
            accepted, _ = listener.accept()
            accepted.close()
        for thread in threads:
            thread.join()
    mesh.lab.settle()
    assert len(recorder.story("t", "title", "passed").connections) == 24


@pytest.mark.families("v4")
def test_a_socket_that_connects_again(pair: Pair, recorder: Recorder) -> None:
    """refused, and connected then: each attempt has its own change to SYN_SENT"""
    with pair.listen() as listener, pair.client_socket() as sock:
        with pytest.raises(ConnectionRefusedError):
            pair.client.connect(pair.server.address(4), 9, sock=sock)
        with pair.connect(sock, listener=listener):
            pass
    first, second = recorder.story("t", "title", "passed").connections
    for one in (first, second):
        assert told(list(one.events), Kind.STATE)[0] == "CLOSE → SYN_SENT"
        assert told(list(one.events), Kind.STATE).count("CLOSE → SYN_SENT") == 1


ALIVE = """
import gc
import pytest
from testbed.lab.lab import Lab

@pytest.mark.families("v4")
@pytest.mark.parametrize("number", range(10))
def test_it(pair, mesh, number):
    with pair.connect():
        pass

def test_nothing_is_kept(bench):
    gc.collect()
    assert sum(isinstance(each, Lab) for each in gc.get_objects()) <= 1
"""


@pytest.mark.long
@pytest.mark.parametrize("record", ["failures", "all"])
def test_no_lab_outlives_its_test(tmp_path: Path, record: str) -> None:
    done = pytest_in(tmp_path, ALIVE, "--record", record, "-p", "no:randomly")
    assert "11 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--run", "test_it.py"), "make the directory test_it.py (--run): EEXIST"),
        (("--run", "."), "keep a run in .: there is something in it already"),
        (("--capsule", "test_it.py"), "make the directory test_it.py (--capsule): EEXIST"),
        (("--record", "off", "--capsule", "x"), "use --capsule: with --record off there is nothing to keep"),
    ],
)
def test_where_nothing_can_be_kept(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = pytest_in(tmp_path, "", *arguments)
    assert done.returncode == 4
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_story_that_cannot_be_kept_fails_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_STATE", "/proc")
    done = pytest_in(tmp_path, BROKEN.format(line="assert 1 == 2"))
    assert done.returncode == 1
    assert "assert 1 == 2" in done.stdout
    assert "not every story is kept" in done.stdout
    assert "cannot make a folder for the run in /proc/runs: ENOENT" in done.stdout
