"""What bcc has compiled is compiled once, by one of several at once, and loads as the same again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

LOAD = """
import json, sys
from testbed.bpf.libbpf import program_size
from testbed.kmesh.reference import load_reference
with load_reference() as loaded:
    print(json.dumps({
        "compiled": "bcc" in sys.modules,
        "programs": {name: program_size(each.fd).instructions for name, each in loaded.programs.items()},
        "maps": [[repr(each), each.max_entries, repr(each.types)] for each in loaded.maps.values()],
        "globals": dict(loaded.globals),
        "origin": loaded.origin,
    }))
"""


def begin(cache: Path, cwd: Path = ROOT) -> subprocess.Popen[str]:
    env = {**os.environ, "TESTBED_CACHE": str(cache)}
    return subprocess.Popen([sys.executable, "-c", LOAD], cwd=cwd, env=env, stdout=subprocess.PIPE, text=True)


def loaded(process: subprocess.Popen[str]) -> dict[str, Any]:
    printed, _ = process.communicate(timeout=60)
    told: dict[str, Any] = json.loads(printed)
    return told


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def three(cache: Path) -> list[dict[str, Any]]:
    """What three say that begin at once, with nothing in the cache."""
    return [loaded(each) for each in [begin(cache) for _ in range(3)]]


@pytest.mark.long
def test_several_at_once_compile_once_and_load_the_same(three: list[dict[str, Any]]) -> None:
    told = [dict(each) for each in three]
    assert sorted(each.pop("compiled") for each in told) == [False, False, True]
    assert told[0] == told[1] == told[2]


@pytest.mark.long
@pytest.mark.usefixtures("three")
def test_what_is_damaged_is_compiled_again(cache: Path) -> None:
    (kept,) = (cache / "programs").glob("*.bcc")
    kept.write_bytes(kept.read_bytes()[:1000])
    assert loaded(begin(cache))["compiled"]
    assert not loaded(begin(cache))["compiled"]
