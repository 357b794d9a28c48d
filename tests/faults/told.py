"""What a run is expected to say when something has run out, and the runs that are made so."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from tests.faults.poverty import Ended, Place

CHECK = ("check", "-k", "settings_as_loaded")
RECORDED = ("check", "-k", "who_is_managed_is_observed and v4", "--record", "all")
UP = ("up", "pair", "--name", "poor")
NEVER = ("Traceback", "Fatal Python error", "INTERNALERROR", "Error:", "Exception ignored", "a fault in")
long = pytest.mark.long


def warm(tmp_path: Path) -> Place:
    """A place with the cache of who runs the tests: what is compiled there is not what is tested."""
    named = os.environ.get("TESTBED_CACHE")
    return Place(tmp_path, Path(named) if named else platformdirs.user_cache_path("sockops-testbed"))


def assert_clear(ended: Ended, *words: str, code: int = 3) -> None:
    """One clear error, and an empty bill."""
    assert ended.code == code, ended.told()
    assert not [word for word in NEVER if word in ended.said], ended.told()
    for word in words:
        assert word in ended.said, ended.told()
    assert ended.said.count(words[0]) == 1 if words else True, ended.told()
    assert not ended.left, ended.told()


def assert_clear_or_well(ended: Ended, *words: str) -> None:
    assert_clear(ended, *(words if ended.code else ()), code=3 if ended.code else 0)
