"""benchmarks/run.py: fills its table in turn, says what is missing and missed, and writes it all down."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import run, topologies
from benchmarks.measure import (
    Contender,
    Figures,
    Limit,
    Measured,
    Options,
    Prepared,
    Row,
    Section,
    Taken,
    Target,
    measure,
)
from benchmarks.show import cells, markdown, number, verdict
from benchmarks.start import worst
from testbed.errors import MachineError

ROWS = (
    Row("x.c", "in C", "ms", short="C"),
    Row("x.ours", "ours", "ms", "x.c", Target("ratio", at_most=1.5)),
    Row("x.rare", "others'", "ms", "x.ours", Target("ratio", at_least=8)),
)


def section(*contenders: Contender, limit: Limit, missing: dict[str, str] | None = None) -> Section:
    def prepare(_options: Options, _stack: ExitStack) -> Prepared:
        return Prepared(contenders, missing or {}, lambda: ["said at the end"])

    return Section("x", "A section", ROWS, prepare, quick=limit, whole=limit)


def counting(key: str, calls: list[str]) -> Callable[[], Taken]:
    def take() -> Taken:
        calls.append(key)
        return {key: [float(len(calls))]}

    return take


def filled(**figures: Sequence[float]) -> Measured:
    made = {f"x.{name}": Figures(tuple(samples)) for name, samples in figures.items()}
    return Measured(
        section(limit=Limit(1, 1)), made, {"x.rare": "not installed: apt-get install it"}, [], 1, 1.0
    )


def test_every_contender_has_its_turn_in_each_round_in_another_order() -> None:
    calls: list[str] = []
    two = [Contender(key, counting(key, calls)) for key in ("x.c", "x.ours")]
    rare = Contender("x.rare", counting("x.rare", calls), every=3)
    made = measure(section(*two, rare, limit=Limit(30, 60)), Options())
    assert {key: len(each.samples) for key, each in made.figures.items()} == {
        "x.c": 30,
        "x.ours": 30,
        "x.rare": 10,
    }
    assert len(calls) == 30 + 30 + 10 + 2 * 2 + 1, "two warm-up rounds, the rare one in the last of them"
    both = [key for key in calls if key != "x.rare"]
    rounds = {tuple(both[at : at + 2]) for at in range(0, len(both), 2)}
    assert rounds == {("x.c", "x.ours"), ("x.ours", "x.c")}
    assert made.notes == ["said at the end"]
    again: list[str] = []
    same = [
        Contender(key, counting(key, again), every)
        for key, every in (("x.c", 1), ("x.ours", 1), ("x.rare", 3))
    ]
    measure(section(*same, limit=Limit(30, 60)), Options())
    assert again == calls, "the order is the seed's"


def test_no_round_is_begun_behind_the_limit_of_seconds() -> None:
    made = measure(section(Contender("c", lambda: {"x.c": [1.0]}), limit=Limit(1000, 0, least=2)), Options())
    assert made.rounds == len(made.figures["x.c"].samples) == 2


def test_others_may_fail_and_that_is_told() -> None:
    def fail() -> Taken:
        raise MachineError("measure it", "it fell over")

    made = measure(section(Contender("it", fail, may_fail=True), limit=Limit(2, 9, 0)), Options())
    assert made.notes[0] == "it failed 2 ×, the last time: it fell over"
    with pytest.raises(MachineError):
        measure(section(Contender("ours", fail), limit=Limit(1, 9)), Options())


def test_a_line_of_the_table() -> None:
    made = filled(c=[2, 1, 3, 2, 2], ours=[5.0, 3.9, 4.1, 4.0, 4.0])
    assert cells(made, ROWS[1]) == [
        "ours",
        "4.00 ms",
        "3.90–5.00",
        "5",
        "±1 %",
        "2.00× C",
        "≤ 1.5×",
        "MISSED",
    ]
    assert cells(made, ROWS[2])[1:3] == ["–", "not installed: apt-get install it"]
    assert verdict([made]) == (["x: ours: 2.00× C, target ≤ 1.5×"], 0, 1)


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target("ratio", at_most=1.5), 1.5, True),
        (Target("ratio", at_most=1.5), 1.51, False),
        (Target("median", at_least=8), 8, True),
        (Target("median", at_least=8), 7.9, False),
    ],
)
def test_targets(target: Target, value: float, met: bool) -> None:
    assert target.is_met(value) is met


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "0.012"), (0.5, "0.50"), (2.345, "2.35"), (45.67, "45.7"), (22900.4, "22,900")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_the_worst_imports() -> None:
    text = "import time: self [us] | cumulative | imported package\n"
    text += "import time:       300 |        300 |   rich.text\nimport time:       100 |        400 | rich\n"
    own, whole = worst(text)
    assert own.endswith("rich.text 0.3 ms, rich 0.1 ms")
    assert whole.endswith("rich 0.4 ms")


def test_a_tiny_run_is_written_down_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, page = tmp_path / "run.json", tmp_path / "run.md"
    words = ["--quick", "--only", "pair", "--rounds", "1", "--json", str(data), "--markdown", str(page)]
    assert run.main(words) == 0
    out = capsys.readouterr().out
    assert "testbed: a Lab" in out
    assert "targets: " in out
    written = json.loads(data.read_text(encoding="utf-8"))
    assert written["machine"].keys() == {"kernel", "cpu", "cores", "load_average"}
    assert {"testbed", "python", "clang"} <= written["versions"].keys()
    assert [each["name"] for each in written["sections"]] == ["pair"]
    rows = {row["key"]: row for row in written["sections"][0]["rows"]}
    assert rows.keys() == {row.key for row in topologies.PAIR}
    for row in rows.values():
        assert row["n"] == len(row["samples"]) == 1
        assert row["min"] == row["median"] == row["max"] > 0
    ours = rows["pair.testbed"]
    assert ours["ratio"] == ours["median"] / rows["pair.c"]["median"]
    assert ours["met"] is (ours["ratio"] <= 1.5)
    text = page.read_text(encoding="utf-8")
    assert text.count("\n| ") == 1 + len(rows)
    assert written["machine"]["kernel"] in text


def test_markdown_is_a_table_of_as_many_columns() -> None:
    lines = [line for line in markdown([filled(c=[1.0])], ["facts"]).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {9}


def test_sections_and_rows_have_names_of_their_own() -> None:
    rows = [row for each in run.SECTIONS for row in each.rows]
    assert len({row.key for row in rows}) == len(rows)
    for each in run.SECTIONS:
        keys = {row.key for row in each.rows}
        assert {row.reference for row in each.rows} <= keys | {""}, each.name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "pair,nothing"], "'nothing' is no section: choose from bare, pair"),
        (["--only", "pair", "--json", "/proc/none/run.json"], "cannot write /proc/none/run.json"),
        (["--only", "bare", "--munet", "/bin/false"], "cannot use --munet /bin/false: it has no munet"),
        (["--only", "bare", "--munet", "/none/python"], "cannot run /none/python"),
    ],
)
def test_bad_input_is_one_message(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(words) == 2
    assert said in capsys.readouterr().err


def test_rounds_are_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["--rounds", "0"])
    assert ended.value.code == 2
    assert "'0' is no number from 1 on" in capsys.readouterr().err
