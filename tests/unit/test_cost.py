"""What a cost run makes of its measurements: medians and their noise, rows, regressions, the report."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from testbed.bpf.program_set import ProgramSet
from testbed.bpf.variables import MapVariables
from testbed.cost.contender import Contender, Size, Spec, parse_contenders
from testbed.cost.counters import Runs
from testbed.cost.noise import CONFIDENCE, LEAST, figure, figure_of, rank, ratio
from testbed.cost.report import as_json, print_result
from testbed.cost.result import (
    WITHOUT,
    Counted,
    Kind,
    Request,
    Result,
    Row,
    Samples,
    Scale,
    compared,
    row_of_sizes,
    rows_of_rates,
    rows_of_times,
    sum_of_callbacks,
    untold,
)
from testbed.errors import ExitCode, UsageError

SCALE = Scale(kernel=30, marks=75)
SOCKOPS = "sockops"


@pytest.mark.parametrize("count", [LEAST, 9, 20, 40, 57, 160, 999])
def test_the_interval_holds_the_median_as_surely_as_it_says_and_is_no_wider(count: int) -> None:
    def missed(place: int) -> float:
        return float(2 * sum(math.comb(count, below) for below in range(place + 1)) / 2**count)

    assert missed(rank(count)) <= 1 - CONFIDENCE < missed(rank(count) + 1)


def test_the_interval_of_very_many_and_of_very_few_values() -> None:
    assert abs(rank(1000) - rank(999)) <= 1
    assert rank(100_000) == pytest.approx(50_000 - 407, abs=2)
    assert [rank(count) for count in range(1, LEAST)] == [0] * (LEAST - 1)


def test_a_figure() -> None:
    found = figure([*range(1, 41)])
    assert (found.median, found.low, found.high, found.count) == (20.5, 12, 29, 40)
    assert found.noise == pytest.approx(8.5 / 20.5)
    assert figure([0.0]).noise == 0


def test_passes_that_are_apart_widen_the_interval() -> None:
    steady = [[10.0] * 10] * 3
    assert figure_of(steady).high == 10
    assert figure_of([*steady, [12.0] * 10]).high == 12
    assert figure_of([*steady, [8.0] * 10]).low == 8


def test_a_ratio_is_of_rounds_that_were_side_by_side() -> None:
    slow = [[1.0, 100.0, 3.0], [7.0, 1.0, 1.0]]  # whatever slows both is not in it
    found = ratio(slow, [[2 * one for one in each] for each in slow])
    assert found is not None
    assert (found.low, found.median, found.high) == (2, 2, 2)
    assert ratio([[0.0]], [[1.0]]) is None


def values(median: float, spread: float = 0.01, shift: Sequence[float] = (1, 1, 1, 1)) -> list[list[float]]:
    """Four passes of ten rounds around a median; each pass ``shift`` times that."""
    made = random.Random(1)  # noqa: S311
    return [[median * by * made.uniform(1 - spread, 1 + spread) for _ in range(10)] for by in shift]


@pytest.mark.parametrize(
    ("kind", "before", "after", "verdict"),
    [
        (Kind.PROGRAM, values(200), values(300), "worse"),
        (Kind.PROGRAM, values(300), values(200), "better"),
        (Kind.PROGRAM, values(200), values(210), ""),  # below the threshold
        (Kind.PROGRAM, values(40), values(55), ""),  # 15 ns are nothing
        (Kind.BPF, values(40), values(55), "worse"),
        (Kind.PROGRAM, values(200), values(300, shift=(1, 1.2, 0.6, 1.4)), ""),  # not in every pass
        (Kind.CALLBACK, values(200, 0.9), values(240, 0.9), ""),  # within the noise
        (Kind.RATE, values(30_000), values(20_000), "worse"),
        (Kind.RATE, values(20_000), values(30_000), "better"),
        (Kind.VERIFIED, [[100.0]], [[111.0]], "worse"),
        (Kind.VERIFIED, [[100.0]], [[110.0]], ""),
        (Kind.CODE, [[100.0]], [[200.0]], ""),
    ],
)
def test_what_is_a_regression(
    kind: Kind, before: list[list[float]], after: list[list[float]], verdict: str
) -> None:
    if kind is Kind.CALLBACK:
        after = [list(reversed(each)) for each in after]
    found = compared(Row(kind, "x", {"A": before, "B": after}), "A", "B", 0.1)
    assert found is not None
    assert {(True, False): "worse", (False, True): "better"}.get(
        (found.is_worse, found.is_better), ""
    ) == verdict


def test_what_is_rare_or_one_sided_is_not_compared() -> None:
    both = {"A": values(100), "B": values(900)}
    assert compared(Row(Kind.PROGRAM, "x", both, is_compared=False), "A", "B", 0.1) is None
    assert compared(Row(Kind.PROGRAM, "x", {"A": values(100)}), "A", "B", 0.1) is None


def counted(program_ns: int, callback_ns: int, times: int = 64) -> Counted:
    return Counted(
        {SOCKOPS: Runs(times, program_ns * times), "idle": Runs(0, 0)},
        {10: Runs(times // 2, callback_ns * times // 2), 3: Runs(times // 2, callback_ns * times // 2)},
    )


def test_rows_of_times_are_on_the_scale_of_the_kernels_statistics() -> None:
    passes = [[counted(200, 245), counted(200, 245)], [counted(200, 245)]]
    names = {SOCKOPS: "mine", "idle": "idle"}
    rows = list(rows_of_times({"A": passes}, names, {10: "STATE", 3: "TCP_CONNECT"}, 16, SCALE))
    assert [(row.kind, row.name) for row in rows] == [
        (Kind.BPF, "all programs"),
        (Kind.PROGRAM, "mine"),
        (Kind.CALLBACK, "TCP_CONNECT"),
        (Kind.CALLBACK, "STATE"),
    ]  # and none of what never ran
    assert [row.figures["A"].median for row in rows] == [200 * 64 / 16, 200, 200, 200]
    assert [row.runs.get("A") for row in rows] == [None, 4, 2, 2]
    assert all(row.is_compared for row in rows)
    flat = [one for each in passes for one in each]
    assert sum_of_callbacks(flat, [SOCKOPS], SCALE) == pytest.approx(1)
    assert list(untold("A", flat, [SOCKOPS])) == []
    rare = list(rows_of_times({"A": [[counted(1, 99, 6)]]}, names, {3: "x"}, 6, SCALE))
    assert [row.is_compared for row in rare] == [True, False, False]


def test_what_the_marks_have_not_seen_is_told() -> None:
    seen = counted(200, 245)
    unseen = Counted({SOCKOPS: Runs(164, 9)}, seen.callbacks, lost=3)
    assert list(untold("A", [seen, unseen], [SOCKOPS])) == [
        "A: the kernel counts 228 runs of its sockops programs, the marks 128",
        "A: 3 callbacks could not be timed: others came in between",
    ]
    two = Counted({"sockops a": Runs(9, 9), "sockops b": Runs(9, 9)}, {3: Runs(9, 9)})
    (words,) = untold("A", [two], ["sockops a", "sockops b"])
    assert "2 sockops programs" in words


def test_rates_and_their_share() -> None:
    rate, share = rows_of_rates({WITHOUT: Samples([[100.0, 200.0]]), "A": Samples([[50.0, 100.0]])})
    assert rate.figures["A"].median == 75
    assert share.values == {"A": [[50, 50]]}
    assert not share.is_compared


@pytest.mark.parametrize(
    ("rounds", "passes", "shared"), [(40, 4, [10] * 4), (9, 4, [3, 2, 2, 2]), (8, 8, [1] * 8)]
)
def test_rounds_are_shared_among_passes(rounds: int, passes: int, shared: list[int]) -> None:
    assert Request(rounds=rounds, passes=passes).rounds_of_passes() == shared


def test_each_pass_has_a_round() -> None:
    with pytest.raises(UsageError, match="share 8 rounds among 9 passes: each pass has a round"):
        Request(rounds=8, passes=9)


def test_contenders(tmp_path: Path) -> None:
    one, two, comma = tmp_path / "one.o", tmp_path / "two.o", tmp_path / "a,b.o"
    for path in (one, two, comma):
        path.touch()
    texts = [str(one), f"{one},{two}", str(tmp_path), str(comma), str(one)]
    found = parse_contenders(texts)
    assert [spec.letter for spec in found] == list("ABCDE")
    assert [spec.paths for spec in found] == [(one,), (one, two), (comma, one, two), (comma,), (one,)]
    assert parse_contenders([]) == [Spec("A", "the reference in bpf/")]


@pytest.mark.parametrize(
    ("texts", "why"),
    [(["x.o"] * 7, "7 sets are too many: 6"), (["a.o,,b.o"], "is empty"), (["."], "no object")],
)
def test_contenders_that_make_no_sense(
    texts: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=why):
        parse_contenders(texts)


def contender(letter: str, sizes: Mapping[str, Size]) -> Contender:
    nothing = ProgramSet({}, {}, MapVariables(dict), lambda: None)
    notes = (("programs", f"{letter}.o: mine"), ("rejected", "other (cgroup/connect4): EINVAL"))
    return Contender(Spec(letter, f"{letter}.o"), nothing, None, {SOCKOPS: "mine"}, sizes, 1.5, 2048, notes)


@pytest.fixture
def result() -> Result:
    """Of three sets: B is worse than A, C as good."""
    sizes = Size(verified=100, instructions=50, machine_code=400, stack=16, verification_us=700)
    ns: dict[str, list[list[float]]] = {"A": values(200), "B": values(300), "C": values(200)}
    rates = {WITHOUT: values(50_000), "A": values(30_000), "B": values(29_000), "C": values(30_000)}
    rows = (
        *rows_of_rates({letter: Samples(of) for letter, of in rates.items()}),
        Row(Kind.PROGRAM, "mine", ns, {"A": 16.0, "B": 16.0, "C": 16.0}),
        Row(Kind.CALLBACK, "TCP_LISTEN", ns, {"A": 0.03}, is_compared=False),
        row_of_sizes(Kind.VERIFIED, "mine", {"A": 100, "B": 100, "C": 100}),
    )
    sets = tuple(contender(letter, {SOCKOPS: sizes}) for letter in "ABC")
    return Result(
        Request(rounds=40, passes=4),
        sets,
        rows,
        SCALE,
        {"A": 0.99, "B": 1.0, "C": 1.0},
        2.5,
        ("something to know",),
    )


def printed(result: Result, width: int = 100) -> tuple[ExitCode, str]:
    output = io.StringIO()
    code = print_result(Console(file=output, width=width), result)
    assert max(map(len, output.getvalue().split("\n\n")[1].splitlines())) <= width
    return code, " ".join(output.getvalue().split())


def test_a_narrow_terminal_cuts_no_figure_short(result: Result) -> None:
    output = io.StringIO()
    print_result(Console(file=output, width=40), result)
    assert "…" not in output.getvalue().replace(" … ", "")  # which is within an interval
    assert " ".join(output.getvalue().split()) == printed(result)[1]


def test_the_report_says_the_size_of_a_regression(result: Result) -> None:
    code, text = printed(result)
    assert code == ExitCode.FAILED
    for words in (
        "A programs A.o: mine rejected other",
        "loading 1.5 ms, 0.7 of it the verifier's (once) · maps of 2 KiB · stack of 16 bytes",
        "B against A",
        "C against A",
        "mine 16.00 × 200",
        "TCP_LISTEN 0.03 × 200",
        "mine 100 100 the same",
        "40 rounds of 64 connections of each set, in v4, in turn; loaded anew 4 times",
        "a program that does nothing takes 30 ns a run by the kernel's count",
        "the callbacks add up to A 99.0 %",
        "something to know",
        "regression, B against A: mine: +50 % ns a run (200 → 300; surely +50 … +50 %)",
    ):
        assert words in text
    assert text.count("regression, ") == 1
    good = replace(result, contenders=(result.contenders[0], result.contenders[2]))
    code, text = printed(good)
    assert code == ExitCode.PASSED
    assert "no regression of more than 10 % beyond the noise, in 2.5 s" in text
    code, text = printed(replace(good, contenders=good.contenders[:1], scale=None))
    assert code == ExitCode.PASSED
    assert "regression" not in text
    assert "does nothing" not in text


def test_json_has_every_round(result: Result) -> None:
    data: dict[str, Any] = json.loads(as_json(result))
    assert data["request"]["family"] == "v4"
    assert data["sets"]["A"]["programs"]["mine"]["verified"] == 100
    rates = data["rows"][0]["sets"]
    assert list(rates) == ["without", "A", "B", "C"]
    assert [len(each) for each in rates["A"]["values"]] == [10] * 4
    assert data["scale_ns"] == {"kernel": 30, "marks": 75}
    (regression,) = data["regressions"]
    assert (regression["name"], regression["before"], regression["after"]) == ("mine", "A", "B")
    assert regression["size"] == pytest.approx(0.5)
    assert regression in data["comparisons"]
