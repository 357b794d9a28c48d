"""A failure as a test: what is written."""

from __future__ import annotations

import ast

import pytest

from testbed.kmesh.explore.paste import as_test, title
from testbed.kmesh.explore.stage import Failure, Step
from testbed.kmesh.oracle.compare import Violation
from testbed.kmesh.oracle.oracle import ContractViolation


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Step("stall"), "play.stall()"),
        (Step("monitoring", (False,)), "play.monitoring(False)"),
        (Step("send", ("c1", "client", 100)), 'play.send("c1", "client", 100)'),
        (
            Step("connect", ("c1", "a", "b"), (("waypoint", True),)),
            'play.connect("c1", "a", "b", waypoint=True)',
        ),
    ],
)
def test_a_step(step: Step, text: str) -> None:
    assert str(step) == text


@pytest.mark.parametrize("steps", [(), (Step("stall"), Step("resume"))])
def test_it_is_python(steps: tuple[Step, ...]) -> None:
    (function,) = (
        node
        for node in ast.parse(as_test(Failure(steps, OSError('"""\\')))).body
        if isinstance(node, ast.FunctionDef)
    )
    assert function.name == "test_found"
    assert [argument.arg for argument in function.args.args] == ["lab", "mesh", "tap"]
    assert isinstance(function.body[-1], ast.With)
    assert len(function.body[-1].body) == max(1, len(steps))


def test_the_title_is_without_what_is_another_each_time() -> None:
    violations = [Violation("close", None, f"port {port}", ("close: not seen",)) for port in (1, 2)]
    assert title(ContractViolation(violations)) == "close: not seen"
    assert title(TimeoutError("no answer\nin 2 s")) == "TimeoutError: no answer"
