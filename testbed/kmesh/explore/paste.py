"""A failure as a test that can be pasted into a file of one's own."""

from __future__ import annotations

from testbed.kmesh.explore.stage import TOPOLOGY, Failure

_TEST = '''\
import pytest

from testbed.kmesh.explore.play import Play


@pytest.mark.topology("{topology}")
def test_{name}(lab, mesh, tap):
    """{title}"""
    with Play(lab, mesh, tap) as play:
{steps}
'''


def as_test(failure: Failure, name: str = "found") -> str:
    """The text of a module with one test, which does the same and fails for the same."""
    steps = [str(step) for step in failure.steps] or ["pass"]
    return _TEST.format(
        topology=TOPOLOGY,
        name=name,
        title=title(failure.error),
        steps="\n".join(f"        {step}" for step in steps),
    )


def title(error: Exception) -> str:
    """What was violated, without what is another each time; of another error its first line."""
    kinds = getattr(error, "kinds", ())
    words = "; ".join(kinds) if kinds else f"{type(error).__name__}: {error}".splitlines()[0]
    return words.replace("\\", "/").replace('"', "'")
