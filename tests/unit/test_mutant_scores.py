"""The scores of mutants and what is printed of them; mutants of instructions."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from testbed.mutants.bytecode import NOTHING, Instruction, changes
from testbed.mutants.model import Failure, Mutant, Result, Verdict
from testbed.mutants.pool import Ended
from testbed.mutants.report import print_mutants, print_runs, print_score
from testbed.mutants.score import Score


def a_mutant(name: str = "") -> Mutant:
    return Mutant("0", "a.c", 7, "old();", "new();", name)


def a_score(*verdicts: Verdict, name: str = "", **more: dict[str, str]) -> Score:
    by = (Failure(0, "why"),)
    results = tuple(Result(a_mutant(name), each, by if each is Verdict.KILLED else ()) for each in verdicts)
    checks = ("1_x::check", "1_x::check", "1_x::idle", "1_x::broken")
    scenarios = ("1_x::check[v4]", "1_x::check[v6]", "1_x::idle[v4]", "1_x::broken[v4]")
    return Score(results, checks, scenarios, ("1_x::broken[v4]",), 1, 1.0, **more)


KILLED, SURVIVED = Verdict.KILLED, Verdict.SURVIVED


@pytest.mark.parametrize(
    ("score", "enough"),
    [
        (a_score(KILLED), True),
        (a_score(*[KILLED] * 19, SURVIVED), True),
        (a_score(*[KILLED] * 18, SURVIVED), False),
        (a_score(*[KILLED] * 19, SURVIVED, name="picked"), False),
        (a_score(KILLED, Verdict.ERROR), False),
        (a_score(Verdict.INVALID, name="picked"), False),
        (a_score(KILLED, argued={"0": "no difference"}), False),
        (a_score(Verdict.INVALID), True),
    ],
)
def test_what_is_enough(score: Score, enough: bool) -> None:
    assert score.enough(95) == enough


def test_the_report_names_survivors_and_idle_checks() -> None:
    score = a_score(KILLED, SURVIVED)
    assert score.idle() == ["1_x::idle"]
    assert score.as_dict()["killed"] == score.as_dict()["survived"] == 1
    console = Console(width=120, record=True, file=io.StringIO())
    print_score(console, score, 95, everything=True)
    print_mutants(console, [a_mutant()])
    text = console.export_text()
    for words in (
        "survived a.c:7",
        "- old();",
        "+ new();",
        "mutants --only 0",
        "checks that fail on no mutant: 1",
    ):
        assert words in text


def test_false_alarms_are_told() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    good, bad = (
        Ended(0, "end", "", failures, 2, 1, 1.0, frozenset()) for failures in ((), (Failure(0, "why"),))
    )
    assert print_runs(console, [good], ["check"], 1.0)
    assert not print_runs(console, [good, bad], ["check"], 1.0)
    assert "1 × check: why" in console.export_text()


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (
            Instruction(0x15, 0x01, 5, 7),
            ["jne r1, 0x7, +5", "jeq r1, 0x6, +5", "jeq r1, 0x8, +5"],
        ),
        (
            Instruction(0x2D, 0x21, 5, 0),
            ["jge r1, r2, +5", "jle r1, r2, +5", "jsgt r1, r2, +5", "jgt r2, r1, +5"],
        ),
        (Instruction(0x85, 0, 0, 1), ["mov r0, 0x0"]),
        (Instruction(0x85, 0x10, 0, 1), []),
        (Instruction(0x61, 0x21, 8, 0), ["r1 = u16 [r2+8]"]),
        (Instruction(0x63, 0x21, -8, 0), ["u16 [r1-8] = r2", "nothing"]),
        (Instruction(0xDC, 0x01, 0, 16), ["nothing"]),
        (Instruction(0x95, 0, 0, 0), []),
    ],
    ids=str,
)
def test_changes_of_an_instruction(one: Instruction, expected: list[str]) -> None:
    assert [str(each) for each in changes(one)] == expected
    assert Instruction.of(one.pack()) == one
    assert len(NOTHING.pack()) == 8
