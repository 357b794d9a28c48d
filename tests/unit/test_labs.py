"""What the commands about labs take apart and put together, without a lab."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from testbed.commands.lab_views import is_lab, line_of
from testbed.commands.labs import down, load, parse_counts
from testbed.errors import ExitCode, MachineError, TestbedError, UsageError
from testbed.keeper import protocol
from testbed.keeper.hold import free_name
from testbed.keeper.process import new_log, own_record, take_name
from testbed.keeper.registry import Record, choose, folder, living, register, socket_path, survey
from testbed.keeper.server import Stopped
from testbed.keeper.text import map_lines
from testbed.keeper.words import is_name, unknown, uptime, valid_name
from testbed.kernel import ownership
from testbed.kernel.streams import let_go, streams
from testbed.logs import KEPT, save_log


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    """Records and logs of the test's own, while the stack is open."""
    monkeypatch.setattr(ownership, "REGISTRY", tmp_path)
    monkeypatch.setenv("TESTBED_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("TESTBED_LAB", raising=False)
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("pair", True), ("a", True), ("a-1", True), ("a" * 31, True)]
    + [(name, False) for name in ("", "A", "1a", "-a", "a" * 32, "a/b", "../a", "a b", "ä", "a\n")],
)
def test_names(name: str, is_one: bool) -> None:
    assert is_name(name) is is_one
    if not is_one:
        with pytest.raises(UsageError, match="lower-case letters"):
            valid_name(name)


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ("cleint", "did you mean client? (hosts: client, server)"),
        ("xyz", "hosts: client, server"),
    ],
)
def test_did_you_mean(given: str, fix: str) -> None:
    assert unknown("find it", "there is none", given, ["client", "server"], "hosts").fix == fix


def test_counts() -> None:
    assert parse_counts(["pods=4", "nodes=2"]) == {"pods": 4, "nodes": 2}


@pytest.mark.parametrize("word", ["pods", "pods=", "=4", "pods=-1", "pods=x"])
def test_bad_counts(word: str) -> None:
    with pytest.raises(UsageError, match="HOST=N"):
        parse_counts([word])


@pytest.mark.parametrize(
    ("ago", "words"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_uptime(ago: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_000_000.0 + ago)
    assert uptime(1_000_000.0) == words


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "request"),
        (b"{}", "request"),
        (b'{"request": "reboot"}', "request"),
        (b'{"request": "enter"}', "host: Field required"),
        (b'{"request": "enter", "host": 1}', "host: "),
        (b'{"request": "manage", "host": "a", "on": "yes"}', "on: "),
        (b'{"request": "about", "more": 1}', "more: "),
        (b'{"request": "about", "version": 2}', "another version"),
    ],
)
def test_bad_requests(data: bytes, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        protocol.parse_request(data)
    assert why in str(caught.value)


@pytest.mark.parametrize("size", [10, 3 * protocol.PACKET])
def test_an_answer_of_any_length(size: int) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other, Path(os.devnull).open(encoding="utf-8") as file:
        protocol.send(one, {"value": "ä" * size}, [file.fileno()])
        message, fds = protocol.receive(other)
        assert message["value"] == "ä" * size
        assert [Path(f"/proc/self/fd/{fd}").readlink() for fd in fds] == [Path(os.devnull)]
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("data", [b"x", b"[]", b"{}", b'{"version": 9}', b'{"memory": true}'])
def test_an_alien_answer(data: bytes) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        one.send(data)
        with pytest.raises(UsageError, match="another version"):
            protocol.receive(other)


def test_an_error_comes_across() -> None:
    error = UsageError("do it", "it is not there", "look elsewhere", "one\ntwo")
    data: Any = protocol.error_message(error)["error"]
    with pytest.raises(TestbedError) as caught:
        protocol.raise_error(data)
    assert str(caught.value) == str(error)
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_name_is_taken_once(registry: ExitStack) -> None:
    register(own_record("mine", "pair"), registry)
    with pytest.raises(UsageError) as caught:
        register(own_record("mine", "other"), registry)
    assert f"process {os.getpid()} keeps it" in str(caught.value)
    assert "of pair" in str(caught.value)
    register(own_record("second", "pair"), registry)
    assert [record.name for record in survey()[0]] == ["mine", "second"]
    assert choose("mine").name == "mine"
    with pytest.raises(UsageError, match="several are up: mine, second"):
        choose()
    with pytest.raises(UsageError, match="did you mean mine"):
        choose("mein")
    registry.close()
    assert survey() == ([], [])
    with pytest.raises(UsageError, match="none is up"):
        choose()


@pytest.mark.parametrize(
    ("given", "environment", "found"),
    [
        ("", "one", "one"),
        ("other", "one", "other"),
        ("other", "lost", "other"),
        ("", "lost", "TESTBED_LAB=lost names it; say another: down NAME (labs that are up: one, other)"),
        ("", "", "several are up: one, other\n  → say which: down NAME"),
    ],
)
def test_which_lab_is_meant(
    registry: ExitStack, monkeypatch: pytest.MonkeyPatch, given: str, environment: str, found: str
) -> None:
    register(own_record("one", "pair"), registry)
    register(own_record("other", "pair"), registry)
    monkeypatch.setenv("TESTBED_LAB", environment)
    try:
        chosen = choose(given, "down NAME").name
    except UsageError as error:
        chosen = str(error)
        assert found in chosen
    else:
        assert chosen == found


@pytest.mark.usefixtures("registry")
def test_the_lab_of_the_environment_when_none_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_LAB", "lost")
    with pytest.raises(UsageError, match=r"none is up\n.*TESTBED_LAB=lost names it"):
        choose()


@pytest.mark.skipif(os.geteuid() != 0, reason="labs are root's")
def test_what_down_and_inspect_do_not_find(registry: ExitStack) -> None:
    register(own_record("mine", "pair"), registry)
    assert is_lab([Path("mine")])
    assert not is_lab([Path("no-such.o")])  # a file's name: the one who reads it says so
    with pytest.raises(UsageError, match=r"neither a file nor a lab that is up\n  → labs: mine$"):
        is_lab([Path("qqq")])
    register(own_record("second", "pair"), registry)
    with pytest.raises(UsageError, match=r"say which: .* down NAME$"):
        down()


def test_counts_of_what_has_none() -> None:
    with pytest.raises(UsageError, match="none of this topology's has one"):
        load("pair", {"pod": 4})
    assert len(load("bridge", {"pod": 5}).hosts) == 6


@pytest.mark.parametrize(
    ("written", "end", "is_kept"),
    [("", None, False), ("x", None, True), ("", Stopped, False), ("", ValueError, True)],
)
def test_an_empty_log_goes_with_an_orderly_end(
    registry: ExitStack, tmp_path: Path, written: str, end: type[Exception] | None, is_kept: bool
) -> None:
    """Behind a fault its words come later."""
    log = new_log("mine")
    assert log == tmp_path / "state/log/keeper-mine.log"
    with suppress(Stopped, ValueError), registry:
        take_name("mine", "pair", log, registry)
        log.write_text(written, encoding="utf-8")
        if end is not None:
            raise end
    assert log.exists() is is_kept


def test_the_newest_logs_stay(registry: ExitStack) -> None:
    for number in range(KEPT + 5):
        log = save_log(f"keeper-gone-{number}", "words")
        os.utime(log, (number, number))
    register(own_record("gone-0", "pair"), registry)
    save_log("other", "words")
    new = new_log("mine")
    left = {path.stem for path in new.parent.iterdir()}
    there = {f"keeper-gone-{number}" for number in (0, *range(5, KEPT + 5))}
    assert left == {*there, "keeper-mine", "other"}


def test_lines_of_storage() -> None:
    value = {"asked_for": "10.0.0.1:80", "direction": "OUTBOUND", "via_waypoint": True}
    item = {"key": 1, "words": "socket 1 of client", "value": value}
    about = {"name": "m", "type": "hash", "role": "storage", "where": "lab", "items": [item], "more": False}
    told = "asked_for 10.0.0.1:80, direction OUTBOUND, via_waypoint yes"
    assert map_lines(about)[1:] == [f"  socket 1 of client: {told}"]


def test_a_dead_ones_record_is_removed(registry: ExitStack) -> None:
    register(own_record("other", "pair"), registry)
    text = (folder() / "other.json").read_text(encoding="utf-8")
    (folder() / "dead.json").write_text(text.replace('"other"', '"dead"'), encoding="utf-8")
    socket_path("dead").touch()
    up, dead = survey()
    assert ([each.name for each in up], [each.name for each in dead]) == (["other"], ["dead"])
    assert {path.name for path in folder().iterdir()} == {"other.json"}
    (folder() / "dead.json").write_text(text.replace('"other"', '"dead"'), encoding="utf-8")
    register(own_record("dead", "pair"), registry)  # the name is free
    assert living("dead") is not None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x", "topology": "", "pid": 1, "since": 1}'])
def test_a_record_that_is_not_ours(registry: ExitStack, text: str) -> None:
    register(own_record("other", "pair"), registry)
    (folder() / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(MachineError, match="not a record of ours"):
        survey()


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("test_close[v4]", "test-close-v4"),
        ("__4x", "x"),
        ("[]", "lab"),
        ("a" * 50, "a" * 31),
        ("who_is_managed_is_observed[v4-server-only]", "is-observed-v4-server-only"),
        ("x-" + "1" * 31, "lab"),
        ("Mine", "mine-2"),
        ("mine", "mine-2"),
    ],
)
def test_the_name_of_a_held_lab(registry: ExitStack, wanted: str, name: str) -> None:
    register(own_record("mine", "pair"), registry)
    assert free_name(wanted) == name
    assert is_name(name)


def test_who_keeps_it() -> None:
    assert str(Record("mine", "net.yaml", 7, 0.0, "testbed up")).startswith("process 7 keeps it since ")


def test_lines_of_events() -> None:
    event = {
        "time_ns": 3_500,
        "kind": "segment",
        "text": "SYN",
        "host": "a",
        "to": "b",
        "connection": "x → y",
    }
    assert line_of(event, 1_000).split() == ["2.5", "µs", "segment", "a", "→", "b", "SYN", "x", "→", "y"]
    record = {**event, "kind": "record", "text": "OUT x → y", "host": None, "to": None}
    assert line_of(record, 1_000).split() == ["2.5", "µs", "record", "–", "OUT", "x", "→", "y"]


def test_streams_from_outside_are_let_go() -> None:
    inside = os.pipe()
    before = streams()
    outside = os.pipe()
    try:
        own = streams() - before
        assert own
        let_go(own)
        targets = [os.readlink(f"/proc/self/fd/{fd}") for fd in (*outside, *inside)]  # noqa: PTH115
        assert targets[:2] == [os.devnull] * 2
        assert all(target.startswith("pipe:") for target in targets[2:])
    finally:
        for fd in (*inside, *outside):
            os.close(fd)
