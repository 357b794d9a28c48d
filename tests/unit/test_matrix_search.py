"""The search for where a verdict changes, and what is told of it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from testbed.errors import ExitCode, MachineError
from testbed.guest.guest import GuestEnded
from testbed.guest.state import GuestReport, GuestState
from testbed.matrix.bisect import Bisection, Output, Told, command_on, judge
from testbed.matrix.search import Trial, search
from tests.matrix_results import BOOTED, PANIC, column

VERSIONS = [f"{series}.{patch}-1" for series in ("5.10", "6.1", "6.12", "7.2") for patch in range(5)]


@settings(deadline=None)
@given(st.data())
def test_the_change_is_found_in_as_few_trials_as_there_can_be(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 400))
    change = data.draw(st.integers(1, count - 1))
    ends = data.draw(st.sets(st.integers(0, count - 1)))
    tried: list[int] = []

    def trial(index: int) -> Trial:
        tried.append(index)
        return Trial.BAD if index >= change else Trial.GOOD

    found = search(count, trial, ends)
    assert (found.good, found.bad, found.untested) == (change - 1, change, ())
    assert len(tried) == len(set(tried))
    assert not {0, count - 1} & set(tried)
    assert len(tried) + 2 <= math.ceil(math.log2(count)) + 2


@settings(deadline=None)
@given(st.data())
def test_what_cannot_be_tested_is_left_out(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 60))
    change = data.draw(st.integers(1, count - 1))
    broken = data.draw(st.sets(st.integers(1, max(1, count - 2))))

    def trial(index: int) -> Trial:
        return Trial.UNTESTED if index in broken else Trial.BAD if index >= change else Trial.GOOD

    found = search(count, trial)
    assert found.good < change <= found.bad
    assert set(range(found.good + 1, found.bad)) == set(found.untested) <= broken


def test_the_end_of_a_series_goes_first() -> None:
    tried: list[int] = []

    def trial(index: int) -> Trial:
        tried.append(index)
        return Trial.GOOD

    search(20, trial, {1, 7, 15})
    assert tried[:2] == [7, 15]


def bisected(attempt: Callable[[str], Told]) -> tuple[ExitCode, str, int]:
    console = Console(file=io.StringIO(), width=200)
    bisection = Bisection(VERSIONS, attempt, console)
    code = bisection.run()
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue(), bisection.boots


def bad_from(version: str) -> Callable[[str], Told]:
    first = VERSIONS.index(version)
    return lambda tried: Told(Trial.BAD if VERSIONS.index(tried) >= first else Trial.GOOD, "words")


@pytest.mark.parametrize("first", VERSIONS[1:])
def test_each_first_bad_version_is_told(first: str) -> None:
    code, text, boots = bisected(bad_from(first))
    series = first.rpartition(".")[0]
    before = VERSIONS[VERSIONS.index(first) - 1]
    assert code is ExitCode.PASSED
    assert f"first bad: {first} ({series}), last good: {before}" in text
    assert f"{boots} boots over 20 versions" in text
    assert boots <= 2 + 5
    assert len(text.splitlines()) == boots + 1


def test_ends_that_are_not_as_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, boots = bisected(bad_from(VERSIONS[0]))
    assert (code, boots) == (ExitCode.USAGE, 1)
    assert "cannot bisect: --good 5.10.0-1 is bad" in capsys.readouterr().err
    code, _, boots = bisected(lambda _: Told(Trial.GOOD, ""))
    assert (code, boots) == (ExitCode.USAGE, 2)
    assert "--bad 7.2.4-1 is good" in capsys.readouterr().err


def test_an_end_that_cannot_be_tested(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = bisected(lambda _: Told(Trial.UNTESTED, "panic: at boot", "[1.0] Oops"))
    assert code is ExitCode.CANNOT_RUN
    assert capsys.readouterr().err.splitlines()[1] == "    [1.0] Oops"


def test_a_version_that_does_not_boot_is_told_and_left_out() -> None:
    truth = bad_from("6.12.2-1")

    def attempt(version: str) -> Told:
        if version == "6.12.1-1":
            raise MachineError("fetch it", "the archive has it no longer")
        return truth(version)

    code, text, _ = bisected(attempt)
    assert code is ExitCode.CANNOT_RUN
    assert "could not be tested, between them: 6.12.1-1" in text
    assert "cannot fetch it: the archive has it no longer" in text


@pytest.mark.parametrize(
    ("letters", "guest", "error", "trial"),
    [
        ("ps", BOOTED, "", Trial.GOOD),
        ("pf", BOOTED, "", Trial.BAD),
        ("e", BOOTED, "", Trial.BAD),
        ("s", BOOTED, "", Trial.UNTESTED),
        ("", BOOTED, "", Trial.UNTESTED),
        ("", BOOTED, "rejected", Trial.UNTESTED),
        ("p", GuestReport(GuestState.PANIC), "", Trial.UNTESTED),
    ],
)
def test_what_a_kernel_comes_to(letters: str, guest: GuestReport, error: str, trial: Trial) -> None:
    assert judge(column("6.1", letters, guest, error=error)).trial is trial


@pytest.mark.parametrize(
    ("code", "trial", "words"),
    [
        (0, Trial.GOOD, "exit code 0"),
        (1, Trial.BAD, "exit code 1: no such map"),
        (125, Trial.UNTESTED, "exit code 125: no such map"),
    ],
)
def test_a_command_s_exit_code(code: int, trial: Trial, words: str) -> None:
    def run(version: str, command: Sequence[str], output: Output) -> int:
        assert (version, command) == ("6.1", ["load"])
        output(1, b"loading\n")
        output(2, b"no such map\n")
        return code

    assert command_on(["load"], run)("6.1") == Told(trial, words, "loading\nno such map")


def test_a_command_whose_guest_ends() -> None:
    def run(*_: object) -> int:
        raise GuestEnded(PANIC)

    told = command_on(["load"], run)("7.2")
    assert (told.trial, told.details) == (Trial.UNTESTED, PANIC.console)
    assert told.words.startswith("panic: Kernel panic")
