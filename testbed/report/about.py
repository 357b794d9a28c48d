"""What a scenario is called. A pytest plugin: it sends the names along with each report.

With xdist the process that reports has collected nothing itself.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Generator, Sequence
from dataclasses import astuple, dataclass
from enum import Enum
from typing import Protocol

import pytest

_PROPERTY = "testbed_about"
STORY = "testbed_story"  # a report's user property: `testbed.kmesh.story`
VIOLATED = "testbed_violated"  # a report's user property: kinds of violations as JSON
SETUP_ERROR = "testbed_setup_error"  # a report's user property: a `TestbedError` as JSON


@dataclass(frozen=True)
class About:
    """What a scenario is called. ``variant`` are its parameters besides the family.

    ``row`` is what scenarios that share a row of the table have in common; empty where none does.
    """

    heading: str
    title: str
    variant: str
    family: str
    row: str = ""


def _first_line(text: str | None, otherwise: str) -> str:
    return next(iter((text or "").strip().splitlines() or otherwise.strip().splitlines()), "")


class Grouped(Protocol):
    """A parameter of a test that says itself which row of the table it belongs to, and which family it is."""

    @property
    def row(self) -> str: ...
    @property
    def family(self) -> Enum: ...


def about(item: pytest.Item) -> About:
    """Heading and title are the first lines of the module's and the test's docstrings.

    Of a test with a parameter that is `Grouped`, the title is that parameter's text.
    """
    function = getattr(item, "function", None)
    heading = _first_line(
        getattr(getattr(item, "module", None), "__doc__", None), item.nodeid.partition("::")[0]
    )
    title = _first_line(getattr(function, "__doc__", None), item.name)
    spec = getattr(item, "callspec", None)
    if spec is None:
        return About(heading, title, "", "")
    for value in spec.params.values():
        if hasattr(value, "row"):
            return About(heading, str(value), "", str(value.family.value), value.row)
    family = spec.params.get("family")
    name = str(family.value) if family is not None else ""
    return About(heading, title, f"-{spec.id}-".replace(f"-{name}-", "-", 1).strip("-"), name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties.append((_PROPERTY, json.dumps(astuple(about(item)))))


def pytest_collection_finish() -> None:
    gc.freeze()  # what is there by now stays: no need to look through it again and again


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What keeps one scenario from running keeps all of them: a worker need not try each."""
    report = yield
    if SETUP_ERROR in dict(report.user_properties):
        item.session.shouldstop = "nothing can be run"
    return report


def sent_along(nodeid: str, properties: Sequence[tuple[str, object]]) -> About:
    """What the scenario of a report with these user properties is called.

    The report of a worker that crashed has none.
    """
    text = dict(properties).get(_PROPERTY)
    if text is None:
        heading, _, title = nodeid.partition("::")
        return About(heading, title, "", "")
    return About(*json.loads(str(text)))
