"""The table of a matrix: what a row shows, which are folded, where they change; exit codes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from testbed.errors import ExitCode
from testbed.guest.state import GuestReport, GuestState
from testbed.matrix.command import print_matrix
from testbed.matrix.details import failures_by_kernels, skips_by_kernels
from testbed.matrix.model import CellResult, MatrixResult
from testbed.matrix.outcome import exit_code
from testbed.matrix.rows import make_rows, ran_nowhere, sections
from tests.matrix_results import BOOTED, LACKS, PANIC, column, result

NO_BOOT = GuestReport(GuestState.NO_BOOT, why="silent for 120 s", console="[0.0] Linux version 6.17")


def printed(columns: Sequence[CellResult], width: int = 120, *, full: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_matrix(console, MatrixResult(tuple(columns), "the reference", 12.0), full=full)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line(text: str, start: str) -> list[str]:
    """The words of the line that starts so, without what it starts with."""
    found = next(line for line in text.splitlines() if line.strip().startswith(start))
    return found.strip().removeprefix(start).split()


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (("p", "p", "p"), "pass pass pass"),
        (("p", "f", "f"), "pass FAIL ◂ FAIL"),
        (("f", "f", "p"), "FAIL FAIL pass ◂"),
        (("s", "p", "f"), "skip pass ◂ FAIL"),
        (("p", "e", "p"), "pass ERROR ◂ pass"),
        (("f", "f", "f"), "FAIL FAIL FAIL"),
        (("p", ".", "f"), "pass – FAIL ◂"),  # what was not run is no change
    ],
)
def test_a_row_and_its_first_change(verdicts: tuple[str, ...], words: str) -> None:
    columns = [column(f"6.{index}", letter) for index, letter in enumerate(verdicts)]
    assert " ".join(line(printed(columns), "a ")) == words


@pytest.mark.parametrize(
    ("states", "words"), [(PANIC, "panic"), (NO_BOOT, "no boot"), (GuestReport(GuestState.NO_BPF), "BPF")]
)
def test_a_guest_that_did_not_get_there_is_no_failure(states: GuestReport, words: str) -> None:
    text = printed([column("6.1", "pf"), column("7.2", ".p", states)])
    assert " ".join(line(text, "a ")) == f"pass {words}"
    assert "FAIL" not in line(text, "a ")


def test_rows_that_are_the_same_everywhere_are_folded() -> None:
    columns = [column("6.1", "pppps"), column("7.2", "ppfps")]
    text = printed(columns)
    assert line(text, "…") == ["3", "more", "rows", "pass", "pass"]
    assert line(text, "c ") == ["pass", "FAIL", "◂"]
    assert line(text, "e ") == ["skip", "skip"]
    assert "more rows" not in printed(columns, full=True)


def test_a_green_matrix_fits_a_screen() -> None:
    results = [
        result(f"scenario_{index}", family=family, heading=f"Heading {index % 6}")
        for index in range(125)
        for family in ("v4", "v6", "mapped", "mapped-client")
    ]
    columns = [CellResult(f"6.{index}", BOOTED, tuple(results)) for index in range(12)]
    text = printed(columns, 140)
    assert len(text.splitlines()) <= 24
    assert "12 kernels: 6000 passed in 12.0 s" in text


def test_families_share_a_row_where_they_are_the_same() -> None:
    def of(letters: str) -> tuple[CellResult, ...]:
        outcome = {"p": "passed", "f": "failed"}
        families = zip(("v4", "v6", "mapped"), letters, strict=True)
        return (CellResult("6.1", BOOTED, tuple(result("a", outcome[each], of) for of, each in families)),)

    assert [row.families for row in make_rows(of("ppp"))] == [()]
    assert {row.families for row in make_rows(of("pfp"))} == {("mapped", "v4"), ("v6",)}


def test_scenarios_of_one_row_are_counted() -> None:
    old = [result(name, outcome, row="ways") for name, outcome in (("a", "failed"), ("b", "passed"))]
    new = [result(name, row="ways") for name in ("a", "b")]
    columns = [CellResult("6.1", BOOTED, tuple(new)), CellResult("6.2", BOOTED, tuple(old))]
    assert line(printed(columns), "ways") == ["pass", "1", "FAIL", "◂"]


def test_what_a_panic_cut_off_is_no_change() -> None:
    both = [result(name, row="ways") for name in ("a", "b")]
    columns = [CellResult("6.1", BOOTED, tuple(both)), CellResult("6.2", PANIC, tuple(both[:1]))]
    (row,) = make_rows(columns)
    assert [str(mark) for mark in row.marks] == ["pass", "1 pass"]
    assert row.change is None
    assert row.quiet


def test_many_kernels_on_a_narrow_terminal() -> None:
    columns = [column(f"6.{index}", "pf") for index in range(12)]
    text = printed(columns, 80)
    assert max(map(len, text.splitlines()[:20])) <= 80
    assert text.count("scenario  ") == 3
    assert all(f" 6.{index} " in text for index in range(12))


def test_the_same_failure_is_told_once_with_its_kernels() -> None:
    columns = [column("5.10", "pf"), column("6.1", "ff"), column("7.2", "ff"), column("7.3", "p.", PANIC)]
    told = [
        (labels, [each.about.title for each in results]) for labels, results in failures_by_kernels(columns)
    ]
    assert told == [(("5.10", "6.1", "7.2"), ["b"]), (("6.1", "7.2"), ["a"])]
    text = printed(columns)
    assert text.count("E   a is not as it should be") == 1
    assert "── on 6.1, 7.2" in text


def test_failures_of_one_scenario_for_two_reasons_are_both_told() -> None:
    columns = [
        CellResult(label, BOOTED, (result("a", "failed", details=f"E   {words}"),))
        for label, words in (("5.10", "a port 1234"), ("6.1", "no port"))
    ]
    assert [labels for labels, _ in failures_by_kernels(columns)] == [("5.10",), ("6.1",)]


def test_numbers_that_differ_are_the_same_failure() -> None:
    columns = [
        CellResult(
            label, BOOTED, (result("a", "failed", details=f"E   port {port}\ncallbacks that fired: {port}"),)
        )
        for label, port in (("5.10", 1234), ("6.1", 56))
    ]
    assert [labels for labels, _ in failures_by_kernels(columns)] == [("5.10", "6.1")]


def test_skips_have_their_kernels() -> None:
    columns = [column("5.10", "ssp"), column("6.1", "ssp"), column("6.12", "spp")]
    assert skips_by_kernels(columns) == [(LACKS, 2, ("5.10", "6.1")), (LACKS, 1, ("6.12",))]
    assert f"2 skipped on 5.10, 6.1: {LACKS}" in printed(columns)


def test_what_ran_nowhere_is_reported() -> None:
    columns = [column("5.10", "ssp"), column("6.1", "sps"), column("7.2", "...", NO_BOOT)]
    assert [each.about.title for each in ran_nowhere(columns)] == ["a"]
    assert "1 scenario ran on no kernel of this matrix:\n     4_close::a[v4]: needs" in printed(columns)


def test_a_guest_is_told_with_its_console() -> None:
    text = printed([column("6.1", "p"), column("7.2", ".", PANIC)])
    assert "7.2 (7.2-cloud-amd64): panic: Kernel panic - not syncing" in text
    assert "\\x1b[31mKernel panic" in text
    assert "2 kernels: 1 passed; 1 panic in 12.0 s" in text


def test_programs_that_were_rejected_are_not_run() -> None:
    text = printed([column("6.1", "p"), column("7.2", ".", error="cannot load sockops_prog: EACCES")])
    assert line(text, "a ") == ["pass", "not", "run"]
    assert "7.2 (6.1.0-50-cloud-amd64): nothing was run: cannot load sockops_prog: EACCES" in text


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ([column("6.1", "pp"), column("7.2", "ps")], ExitCode.PASSED),
        ([column("6.1", "pp"), column("7.2", "pf")], ExitCode.FAILED),
        ([column("6.1", "pe")], ExitCode.FAILED),
        ([column("6.1", "pp"), column("7.2", "p.", PANIC)], ExitCode.CANNOT_RUN),
        ([column("6.1", "pf"), column("7.2", "..", PANIC)], ExitCode.FAILED),
        ([column("6.1", "ss")], ExitCode.CANNOT_RUN),
        ([column("5.10", "ss"), column("7.2", "pp")], ExitCode.PASSED),
        ([column("6.1", "p", error="rejected")], ExitCode.CANNOT_RUN),
        ([], ExitCode.CANNOT_RUN),
    ],
)
def test_exit_codes(columns: list[CellResult], code: ExitCode) -> None:
    assert exit_code(MatrixResult(tuple(columns), "")) is code


def test_sections_keep_each_row_once() -> None:
    rows = make_rows([column("6.1", "ppspf"), column("7.2", "ppppf")])
    (section,) = sections(rows, full=False)
    folded = [row for _, each in section.folded for row in each]
    assert sorted(row.title for row in (*section.shown, *folded)) == ["a", "b", "c", "d", "e"]
