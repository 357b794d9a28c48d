"""What a scenario is called. A pytest plugin: it sends the names along with each report.

With xdist the process that reports has collected nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import pytest

_PROPERTY = "testbed_about"
STORY = "testbed_story"  # a report's user property: `testbed.kmesh.story`
SETUP_ERROR = "testbed_setup_error"  # a report's user property: a `TestbedError` as JSON


@dataclass(frozen=True)
class About:
    """What a scenario is called. ``variant`` are its parameters besides the family."""

    heading: str
    title: str
    variant: str
    family: str


def _first_line(text: str | None, otherwise: str) -> str:
    return (text or otherwise).strip().splitlines()[0]


def about(item: pytest.Item) -> About:
    """Heading and title are the first lines of the module's and the test's docstrings."""
    function = getattr(item, "function", None)
    module = getattr(item, "module", None)
    spec = getattr(item, "callspec", None)
    family = spec.params.get("family") if spec is not None else None
    family_name = family.value if family is not None else ""
    words = spec.id.split("-") if spec is not None else []
    if family_name in words:
        words.remove(family_name)
    return About(
        heading=_first_line(getattr(module, "__doc__", None), item.nodeid.partition("::")[0]),
        title=_first_line(getattr(function, "__doc__", None), item.name),
        variant="-".join(words),
        family=family_name,
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties.append((_PROPERTY, json.dumps(astuple(about(item)))))


def sent_along(nodeid: str, properties: Sequence[tuple[str, object]]) -> About:
    """What the scenario of a report with these user properties is called.

    The report of a worker that crashed has none.
    """
    text = dict(properties).get(_PROPERTY)
    if text is None:
        heading, _, title = nodeid.partition("::")
        return About(heading, title, "", "")
    return About(*json.loads(str(text)))
