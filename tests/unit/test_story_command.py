"""`testbed story` and `testbed report` on runs that were kept: what is chosen, and what is said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from testbed.cli import app
from testbed.errors import UsageError
from testbed.runs.model import Finding, Verdict, info_now
from testbed.runs.writer import Recording
from tests.stories import failed, passed

Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
    """A run of two stories, of which one has packets."""
    monkeypatch.setenv("TESTBED_STATE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    rows = (Verdict(failed().test, "closing", "failed", "v4", "Close", story=1),)
    with Recording(info_now(["testbed", "check"], "the reference in bpf/")) as recording:
        recording.add(failed(), b"<one>")
        recording.add(passed())
        recording.finish(rows, findings=[Finding("kernel", True, "it is well")])
    return recording


@pytest.fixture
def run() -> Command:
    def invoke(*words: str) -> Result:
        done: Result = CliRunner().invoke(app, words)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return invoke


def test_several_stories_are_listed(run: Command) -> None:
    lines = run("story", "last").stdout.splitlines()
    assert lines[1].split() == ["1", "failed", "4_close::closing_deletes_the_verdict[v4]", "2", "connections"]
    assert lines[2].split()[:2] == ["2", "passed"]
    assert "story last --test N" in lines[-1]


@pytest.mark.parametrize(
    ("test", "names"),
    [
        ("close", ["4_close"]),
        ("not close", ["2_established"]),
        ("CLOSING or one_record", ["4_close", "2_established"]),
        ("2", ["2_established"]),
        ("4_close::closing_deletes_the_verdict[v4]", ["4_close"]),
    ],
)
def test_some_are_told(run: Command, test: str, names: list[str]) -> None:
    told = run("story", "last", "--test", test).stdout
    assert re.findall(r"^(?:failed|passed) (\w+)::", told, re.MULTILINE) == names
    assert "client                        wire" in told


def test_one_connection_alone(run: Command) -> None:
    told = run("story", "last", "--test", "1", "--connection", "2").stdout
    assert re.findall(r"^#(\d)", told, re.MULTILINE) == ["2"]


def test_json_is_of_those_that_are_chosen(run: Command) -> None:
    (document,) = json.loads(run("story", "last", "--test", "1", "--connection", "1", "--json").stdout)
    assert (document["number"], document["test"]) == (1, failed().test)
    assert [each["number"] for each in document["connections"]] == [1]


def test_packets_are_written(run: Command, tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    assert "the packets of 1 of 2 stories, 5 bytes" in run("story", "last", "--pcapng", str(file)).stdout
    assert file.read_bytes() == b"<one>"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--test", "nonesuch"], "there is none of such a test"),
        (["--test", "9"], "there is none of such a test"),
        (["--test", "(("], "it is no expression"),
        (["--connection", "1"], "of which of the 2 stories?"),
        (["--test", "1", "--connection", "9"], "the story's connections are: 1, 2"),
        (["--test", "2", "--pcapng", "x"], "no packets were kept"),
        (["--pcapng", "/no/such/folder/x"], "ENOENT"),
    ],
)
def test_what_cannot_be_told(run: Command, words: list[str], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        run("story", "last", *words)
    assert why in caught.value.why


def test_damage_is_told_and_the_rest_shown(run: Command, kept: Recording) -> None:
    (kept.folder / "stories/0001.json").write_text("{")
    (kept.folder / "verdicts.json").unlink()
    done = run("story", "last")
    assert "2_established" in done.stdout
    assert "it was cut short: 1 story has been kept so far" in done.stderr
    assert f"cannot read {kept.folder}/stories/0001.json: it is no JSON" in done.stderr
    (kept.folder / "stories/0002.json").unlink()
    with pytest.raises(UsageError, match="there is none to be read"):
        run("story", "last")


def test_a_report_is_one_page(run: Command, tmp_path: Path) -> None:
    file = tmp_path / "x.html"
    assert "1 verdict, 2 stories" in run("report", "last", "-o", str(file)).stdout
    page = file.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    for words in ("the reference in bpf/", "testbed check", "it is well", "closing_deletes_the_verdict"):
        assert words in page
    with pytest.raises(UsageError, match="ENOENT"):
        run("report", "last", "-o", "/no/such/folder/x")
