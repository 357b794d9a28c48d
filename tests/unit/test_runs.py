"""Runs that are kept: what is read is what was written, by whoever, however it ended."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from testbed.errors import TestbedError, UsageError
from testbed.observe.events import Story
from testbed.runs import folder as places
from testbed.runs.codec import decoded, encoded
from testbed.runs.folder import KEPT, kept_runs, runs_dir
from testbed.runs.model import Finding, Program, Verdict, info_now
from testbed.runs.reader import open_run
from testbed.runs.writer import Recording, RunWriter
from tests.any_story import stories
from tests.stories import failed, passed

INFO = info_now(
    ["testbed", "check", "-k", "close"], "the reference in bpf/", [Path(__file__)], {"-k": "close"}
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_STATE", str(tmp_path))
    return tmp_path


@settings(deadline=None)
@given(stories())
def test_a_story_comes_back_as_it_was(story: Story) -> None:
    data = encoded(story)
    assert data.isascii()
    assert repr(decoded(Story, data, "it")) == repr(story)  # by their texts: NaN equals nothing


def test_a_run_comes_back_as_it_was() -> None:
    rows = (Verdict(failed().test, "", "failed", story=1, details="why"), Verdict("b", "", "passed"))
    with Recording(INFO) as recording:
        numbers = [recording.add(failed(), b"packets"), recording.add(passed())]
        recording.finish(rows, programs=[Program("p", "s", True, "3")], findings=[Finding("f", None, "d")])
    run = open_run("last")
    assert numbers == [1, 2]
    assert (run.info, run.end.rows, run.note, run.damaged) == (INFO, rows, "", ())
    assert [kept.story for kept in run.kept] == [failed(), passed()]
    assert (run.packets(1), run.packets(2)) == (b"packets", None)
    assert (run.end.programs[0].name, run.end.findings[0].ok) == ("p", None)
    assert not list(recording.folder.rglob(".*")), "drafts are left"


def test_a_run_has_three_names(state: Path) -> None:
    with Recording(INFO) as recording:
        recording.finish(())
    for text in ("last", recording.folder.name, str(recording.folder)):
        assert Path(open_run(text).name) == recording.folder
    assert recording.folder.parent == state / "runs" == runs_dir()


def test_a_folder_of_ones_own_is_the_last_run_too(tmp_path: Path) -> None:
    with Recording(INFO, tmp_path / "mine") as recording:
        recording.add(failed())
    assert recording.folder == tmp_path / "mine"
    assert [kept.story for kept in open_run("last").kept] == [failed()]
    with pytest.raises(TestbedError, match="ENOTEMPTY"):
        Recording(INFO, tmp_path / "mine")


def _add(folder: Path, worker: int) -> None:
    writer = RunWriter(folder)
    for number in range(25):
        story = passed(f"test_x.py::test_{worker}_{number}")
        writer.add(story, story.test.encode())


def test_workers_share_a_folder() -> None:
    with Recording(INFO) as recording:
        workers = [
            get_context("fork").Process(target=_add, args=(recording.folder, each)) for each in range(3)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
            assert worker.exitcode == 0
    run = open_run("last")
    assert [kept.number for kept in run.kept] == list(range(1, 76))
    assert len({kept.story.test for kept in run.kept}) == 75
    assert all(run.packets(kept.number) == kept.story.test.encode() for kept in run.kept)


def _record_and_die(pipe: int) -> None:
    recording = Recording(INFO)
    recording.add(failed())
    os.write(pipe, b".")
    signal.pause()


def test_a_run_that_is_killed_is_read_as_far_as_it_got() -> None:
    ready, writing = os.pipe()
    process = get_context("fork").Process(target=_record_and_die, args=(writing,))
    process.start()
    try:
        assert os.read(ready, 1) == b"."
        assert open_run("last").note == "it is still running: 1 story has been kept so far"
    finally:
        process.kill()
        process.join()
        os.close(ready)
        os.close(writing)
    run = open_run("last")
    assert run.note == "it was cut short: 1 story has been kept so far"
    assert [(row.test, row.outcome, row.story) for row in run.end.rows] == [(failed().test, "failed", 1)]


def test_an_interrupted_run_says_so() -> None:
    with Recording(INFO) as recording:
        recording.finish((), interrupted=True)
    assert open_run("last").note == "it was interrupted: what had not been run has no verdict"


def test_the_newest_are_kept_and_those_that_run(tmp_path: Path) -> None:
    stranger = runs_dir() / "notes"
    stranger.mkdir(parents=True)
    with Recording(INFO) as running:
        folders = []
        for _ in range(KEPT + 3):
            with Recording(INFO) as each:
                folders.append(each.folder)
        assert kept_runs() == [running.folder, *folders[-KEPT:]]
        assert stranger.is_dir()
    outside = tmp_path / "mine"
    Recording(INFO, outside).close()
    for _ in range(KEPT + 1):
        Recording(INFO).close()
    assert (outside / "run.json").is_file(), "a person's folder is removed"
    assert len(list(runs_dir().glob("[.0-9]*"))) == len(kept_runs()) == KEPT


def test_a_run_without_anything_worth_keeping_goes() -> None:
    Recording(INFO).discard()
    assert kept_runs() == []
    assert list(runs_dir().iterdir()) == []


def _damage(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


BROKEN: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / "run.json").unlink(), "it is no run's folder: there is no run.json"),
    (_damage("run.json", "{"), "it is no JSON"),
    (_damage("run.json", "[]"), "does not say which format"),
    (_damage("run.json", '{"format": 99}'), "it is of format 99; this testbed reads 1"),
    (_damage("run.json", '{"format": 1}'), "started: Field required (and 2 more)"),
    (_damage("run.json", "[" * 100_000), "it is no JSON"),
    (lambda folder: (folder / "stories").rmdir(), "ENOENT"),
]


@pytest.mark.parametrize(("damage", "why"), BROKEN)
def test_a_folder_that_cannot_be_read_is_one_line(damage: Callable[[Path], Any], why: str) -> None:
    with Recording(INFO) as recording:
        damage(recording.folder)
        with pytest.raises(UsageError) as caught:
            open_run(str(recording.folder))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", '{"test": 1}', "[[", "null", "\0"])
def test_a_damaged_story_leaves_the_others(text: str) -> None:
    with Recording(INFO) as recording:
        recording.add(failed())
        recording.add(passed())
        (recording.folder / "stories/0001.json").write_text(text)
    run = open_run("last")
    assert [kept.number for kept in run.kept] == [2]
    (line,) = run.damaged
    assert line.startswith(f"read {recording.folder}/stories/0001.json: ")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("last", "none is kept in"),
        ("lsat", "did you mean last?"),
        ("/no/such/folder", "there is no such file, folder or run"),
        ("/dev/null", "it is no zip archive"),
        ("x" * 5000, "ENAMETOOLONG"),
        ("a\0b", "there is no such file"),
    ],
)
def test_what_is_no_run_is_one_message(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_run(text)
    assert message in str(caught.value)


def test_a_state_directory_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TESTBED_STATE", str(tmp_path / "file"))
    with pytest.raises(TestbedError, match="set TESTBED_STATE"):
        Recording(INFO)
    with pytest.raises(UsageError, match="no run has been begun there"):
        RunWriter(tmp_path)


def test_json_is_for_others_too() -> None:
    """Whoever reads a story with another tool finds plain JSON."""
    document = json.loads(encoded(failed()))
    assert document["connections"][0]["tuple"] == ["10.77.0.1", 40000, "10.77.0.2", 8080]
    assert places.STORIES == "stories"
