"""Mutants: what is generated, what is left out as noise, what is the same, how verdicts are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from testbed.errors import ExitCode, UsageError
from testbed.kmesh.reference import reference_sources
from testbed.mutants.campaign import verdict
from testbed.mutants.generate import generated
from testbed.mutants.measure import Request, choose, measure
from testbed.mutants.model import Built, Failure, Mutant, Result, Verdict
from testbed.mutants.noise import code_lines, is_noise, names_in
from testbed.mutants.order import Order
from testbed.mutants.picked import argued, arguments, hand_picked
from testbed.mutants.pool import Ended
from testbed.mutants.sources import Sources, read_sources, without_comments
from testbed.mutants.twins import one_of_each, with_twins

TEXT = """\
#pragma once
#include "other.h"
#define PORT 929
#define LICENSE(text) char l[] = text
#ifdef TESTBED_BCC
int of_bcc = 1;
#else
volatile int number = 1;
#endif
static int f(int a,
             int b)
{
	for (int i = 0; i < 4; i++) {
		a += i;
	}
	log_error(0, "no room");
	return a + b;
}
LICENSE("GPL");
"""


@pytest.fixture(scope="module")
def reference() -> Sources:
    found = reference_sources()
    return read_sources(found.sources[0].parent, found.sources)


@pytest.fixture(scope="module")
def mutants(reference: Sources) -> list[Mutant]:
    return [*hand_picked(reference)[0], *generated(reference)]


def test_code_is_what_runs_in_this_loader() -> None:
    lines = TEXT.split("\n")
    found = [lines[number - 1].strip() for number in code_lines(lines)]
    assert found == [
        "#define PORT 929",
        "volatile int number = 1;",
        "for (int i = 0; i < 4; i++) {",
        "a += i;",
        'log_error(0, "no room");',
        "return a + b;",
    ]
    assert [lines[number - 1].strip() for number, loop in code_lines(lines).items() if loop] == ["a += i;"]


@pytest.mark.parametrize(
    ("old", "new", "in_loop", "noise"),
    [
        ("return a + b;", "return a - b;", False, False),
        ("return a + b;", "return a + b2;", False, True),
        ("f(a);", "f(a;", False, True),
        ('log(0, "text");', 'log(0, "");', False, True),
        ('log(0, "text");', 'log(1, "text");', False, False),
        ("a = b;", "a = b;\nbreak;", False, True),
        ("a = b;", "a = b;\nbreak;", True, False),
        ("a = b;", "a  =  b;", False, True),
    ],
)
def test_noise(old: str, new: str, in_loop: bool, noise: bool) -> None:
    known = names_in(["return a b f log break", "text"])
    assert is_noise(old, new, known, in_loop) == noise


def test_comments_go_and_lines_stay() -> None:
    text = 'a /* one\ntwo */ b // three\n"/* text */" c\n'
    assert without_comments(text) == 'a\n b\n"/* text */" c\n'


def test_a_file_is_expanded_once_with_its_lines() -> None:
    texts = {"a.c": '#include "b.h"\n#include "c.h"\nint a;', "include/b.h": "#pragma once\nint b;"}
    texts["include/c.h"] = '#include "b.h"\nint c;'
    sources = Sources(Path("/x"), ("a.c",), texts)
    assert sources.reached_from("a.c") == set(texts)
    lines = sources.expanded("a.c", {"include/b.h": "#pragma once\nint changed;"}).splitlines()
    assert lines.count("int changed;") == 1
    assert lines[-2:] == ['#line 3 "/x/a.c"', "int a;"]


def test_generated_mutants_are_stable_and_apart(reference: Sources) -> None:
    first, second = generated(reference), generated(reference)
    assert [(each.id, each.texts) for each in first] == [(each.id, each.texts) for each in second]
    assert len({each.id for each in first}) == len(first) > 1000
    assert {each.file for each in first} >= {"sockops.c", "connect.c", "sendmsg.c", "include/address.h"}
    assert not [each for each in first if "tap" in each.file or each.old.startswith(("*", "/*", "//"))]


def test_an_id_survives_a_line_above() -> None:
    def ids(text: str) -> list[str]:
        return [each.id for each in generated(Sources(Path("/x"), ("a.c",), {"a.c": text}))]

    assert ids(TEXT.replace("static int f", "\nstatic int f")) == ids(TEXT) != []


def test_those_picked_by_hand_fit(reference: Sources) -> None:
    picked, unfit = hand_picked(reference)
    assert not unfit
    assert len({each.name for each in picked}) == len(picked) >= 30
    assert all(each.why and each.texts[each.file] != reference.texts[each.file] for each in picked)


def test_one_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "picked.yaml"
    path.write_text("- {name: x, file: a.c, replace: [['a;', 'b;']], why: because}\n", encoding="utf-8")
    for text, unfit in (("a;", []), ("a; a;", ["x"]), ("c;", ["x"])):
        assert hand_picked(Sources(tmp_path, ("a.c",), {"a.c": text}), path)[1] == unfit
    path.write_text("- {name: x}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="an entry needs file, name"):
        hand_picked(Sources(tmp_path, (), {}), path)


def test_every_argument_is_of_a_mutant(mutants: list[Mutant]) -> None:
    reasons, idle = argued(arguments(), mutants)
    assert not idle
    assert all(len(reason) > 20 for reason in reasons.values())


def test_a_sample_is_the_same_for_the_same_seed(mutants: list[Mutant]) -> None:
    draws = [choose(mutants, Request(sample=20, seed=seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert all(len(drawn) == 20 for drawn in draws)


def test_some_are_chosen_by_name(mutants: list[Mutant]) -> None:
    one = mutants[-1]
    assert choose(mutants, Request(only=(one.id,))) == [one]
    assert {each.file for each in choose(mutants, Request(only=("connect.c",)))} == {"connect.c"}
    assert all(each.name for each in choose(mutants, Request(only=("hand-picked",))))
    with pytest.raises(UsageError, match="find the mutant nobody"):
        choose(mutants, Request(only=("nobody",)))


@pytest.mark.parametrize(
    "request_",
    [
        Request(source=Path("x"), objects=(Path("y"),)),
        Request(only=("x",), sample=1),
        Request(tail_calls=("x:0=y",)),
        Request(source=Path("/nowhere")),
    ],
)
def test_requests_that_make_no_sense(request_: Request) -> None:
    with pytest.raises(UsageError):
        measure(request_, Console())


def test_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure(Request(sample=5, list_only=True), Console()) is ExitCode.PASSED
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_the_order_is_learnt_from_those_long_before() -> None:
    order = Order(4)
    for number in range(96):
        assert order.ready(number)
        items = order.of(number, "a.c")
        assert items == ((0, 1, 2, 3) if number < 64 else (2, 3, 0, 1))
        order.learn(number, *(("b.h", 3) if number == 0 else ("a.c", 2)))
    assert order.of(96, "b.h") == (3, 2, 0, 1)
    late = Order(1)
    assert late.ready(63)
    assert not late.ready(64)


def a_mutant(name: str = "", id_: str = "0") -> Mutant:
    return Mutant(id_, "a.c", 7, "old();", "new();", name)


@pytest.mark.parametrize(
    ("how", "failures", "last", "expected"),
    [
        ("end", (), 9, Verdict.SURVIVED),
        ("end", (Failure(1, "why"),), 1, Verdict.KILLED),
        ("deadline", (), 3, Verdict.KILLED),
        ("deadline", (), -1, Verdict.ERROR),
        ("invalid", (Failure(0, "setup"),), 0, Verdict.INVALID),
        ("error", (Failure(0, "why"),), 0, Verdict.ERROR),
    ],
)
def test_verdicts(how: str, failures: tuple[Failure, ...], last: int, expected: Verdict) -> None:
    ended = Ended(0, how, "reason", failures, 3, last, 1.0, frozenset())
    assert verdict(a_mutant(), ended).verdict is expected


def test_one_of_each_code_is_run() -> None:
    objects = (("a.o", b""),)
    built = [
        Built(a_mutant(id_="unchanged"), objects, "0"),
        Built(a_mutant(id_="first"), objects, "1"),
        Built(a_mutant(id_="twin"), objects, "1"),
        Built(a_mutant(id_="argued"), objects, "2"),
        Built(a_mutant(id_="argued too"), objects, "2"),
        Built(a_mutant(id_="broken"), reason="does not compile"),
    ]
    run, decided = one_of_each(built, "0", {"argued too": "because"}, run_argued=False)
    assert [each.mutant.id for each in run] == ["first"]
    results = with_twins(built, run, [Result(run[0].mutant, Verdict.KILLED)], decided)
    assert [(each.mutant.id, each.verdict.value, each.twin) for each in results] == [
        ("unchanged", "equivalent", ""),
        ("first", "killed", ""),
        ("twin", "killed", "first"),
        ("argued", "equivalent", ""),
        ("argued too", "equivalent", ""),
        ("broken", "invalid", ""),
    ]
    assert len(one_of_each(built, "0", {"argued too": "because"}, run_argued=True)[0]) == 2
