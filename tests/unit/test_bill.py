"""The leak bill's parts: what is heard, what a picture tells apart, what a bill says."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.acquired import acquired
from testbed.bill.bill import Left, Search, made, told, without_doubles
from testbed.bill.orphans import VARIABLE, mark, orphans
from testbed.bill.picture import Thing, descriptors, take
from testbed.bill.place import Place, here
from testbed.bill.trace import Trace, the_trace
from testbed.bill.unsaid import saying
from testbed.bill.words import words_of
from testbed.lab.wait import eventually
from testbed.logs import save_log


@pytest.fixture
def trace() -> Iterator[Trace]:
    """Listens within whatever listens already: the one that bills this very test."""
    found = the_trace()
    found.begin()
    yield found
    found.end()


def line_of(place: Place | None) -> str:
    assert place is not None
    assert place.ours is not None
    return f"{Path(place.ours.file).name} {place.ours.function}"


def test_the_innermost_line_that_is_of_no_library() -> None:
    assert line_of(here(1)) == "test_bill.py test_the_innermost_line_that_is_of_no_library"


def test_a_line_behind_the_testbeds(trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_STATE", str(tmp_path))
    path = save_log("x", "x")
    heard = trace.opened[str(path.with_name(f".x.{os.getpid()}"))]
    assert line_of(heard.place) == "test_bill.py test_a_line_behind_the_testbeds"
    assert heard.place is not None
    assert heard.place.by is not None
    assert Path(heard.place.by.file).name == "logs.py"


def test_a_thread_is_at_the_line_that_started_it(trace: Trace) -> None:
    with saying(trace):
        thread = threading.Thread(target=acquired, args=("pipe", 99))
        thread.start()
        thread.join()
    assert line_of(trace.by_fd.pop(99).place) == "test_bill.py test_a_thread_is_at_the_line_that_started_it"


def test_a_thread_that_notes_something_deafens_no_other(trace: Trace) -> None:
    is_at_work, go_on = threading.Event(), threading.Event()

    def note() -> None:
        is_at_work.set()
        go_on.wait()

    thread = threading.Thread(target=trace._hear, args=(note,))
    thread.start()
    is_at_work.wait()
    since = trace.number
    folder = tempfile.mkdtemp()
    go_on.set()
    thread.join()
    found = made(trace, since)
    Path(folder).rmdir()
    assert found == [Thing("file", (folder,))]


@pytest.mark.parametrize(
    "make",
    [
        lambda: os.open(os.devnull, os.O_RDONLY),
        lambda: os.dup(0),
        lambda: os.memfd_create("x"),
        lambda: os.pidfd_open(os.getpid()),
        lambda: os.eventfd(0),
    ],
)
def test_a_descriptor_is_found_with_its_line(trace: Trace, make: object) -> None:
    assert callable(make)
    since, before = trace.number, take(trace.times()).things
    with saying(trace):
        fd = make()
    gained = take(trace.times()).things - before
    found = [Search(trace, since).of(each) for each in gained]
    os.close(fd)
    assert [each.key[0] for each in gained] == [fd]
    assert [line_of(each.place) for each in found if each is not None] == ["test_bill.py <lambda>"]


def test_a_descriptor_made_anew_is_another_one(trace: Trace) -> None:
    """All that have no file look alike: the trace tells them apart."""
    with saying(trace):
        fd = os.eventfd(0)
        before = set(descriptors(trace.times()))
        os.close(fd)
        assert os.eventfd(0) == fd
    gained = set(descriptors(trace.times())) - before
    os.close(fd)
    assert [each.key[0] for each in gained] == [fd]


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_kept_on_purpose_is_on_no_bill(trace: Trace, kept: bool) -> None:
    since = trace.number
    folder = tempfile.mkdtemp()
    if kept:
        acquired("kept folder", folder)
    found = made(trace, since)
    Path(folder).rmdir()
    assert found == ([] if kept else [Thing("file", (folder,))])
    assert not made(trace, since)


def test_pytests_own_files_are_not_temporary(trace: Trace, tmp_path: Path) -> None:
    since = trace.number
    (tmp_path / "x").write_text("x", encoding="utf-8")
    assert not made(trace, since)


def test_the_name_of_a_unix_socket_is_a_file(trace: Trace) -> None:
    folder, since = Path(tempfile.mkdtemp()), trace.number + 1
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "x"))
    found = made(trace, since)
    (folder / "x").unlink()
    folder.rmdir()
    assert found == [Thing("file", (str(folder / "x"),))]


def test_a_current_directory_that_was_removed(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told, and what is done relative to another one, is as ever."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with ExitStack() as stack:
        fd = os.open(tmp_path, os.O_RDONLY)
        stack.callback(os.close, fd)
        os.mkdir("x", dir_fd=fd)
        stack.callback(os.close, os.open("x", os.O_RDONLY, dir_fd=fd))
    assert __file__ in str(trace.opened["x"].place)


def test_processes(trace: Trace) -> None:
    since, before = trace.number, take(trace.times()).things
    with subprocess.Popen(["sleep", "1000"]) as process:  # noqa: S607
        (gained,) = {each for each in take(trace.times()).things - before if each.kind == "process"}
        eventually(lambda: words_of(gained).body == "sleep 1000", awaited="the process's own words")
        heard = Search(trace, since).of(gained)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        ended = words_of(gained)
    assert heard is not None
    assert line_of(heard.place) == "test_bill.py test_processes"
    assert ended.head == f"zombie {process.pid}"


def test_who_has_left_us_is_found_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "another's")
    word = mark()
    done = subprocess.run(
        ["sh", "-c", "sleep 60 >/dev/null & echo $!"],  # noqa: S607
        stdout=subprocess.PIPE,
        check=True,
    )
    pid = int(done.stdout)
    found = orphans(word)
    os.kill(pid, 9)
    assert found == [Thing("orphan", (pid,))]
    assert os.environ[VARIABLE] == f"another's {word.decode()}"


def test_what_is_named_twice_is_told_once() -> None:
    things = {Thing("file", ("/tmp/a",)), Thing("file", ("/tmp/a/b/c",)), Thing("file", ("/tmp/d",))}  # noqa: S108
    assert [each.key[0] for each in without_doubles(things)] == ["/tmp/a", "/tmp/d"]  # noqa: S108


def test_a_long_bill_is_shortened() -> None:
    text = told("the test", [Left(Thing("file", (f"/tmp/{number}",)), None) for number in range(30)])  # noqa: S108
    assert text.splitlines()[0] == "leak bill: the test left 30 things"
    assert text.splitlines()[1] == "  file  /tmp/0   nothing said where"
    assert text.splitlines()[-1] == "  … and 6 more"
