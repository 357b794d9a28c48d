"""What bcc has compiled is compiled once, by one of several at once, and loads as the same again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def test_several_at_once_compile_once_and_load_the_same(tmp_path: Path) -> None:
    told = [loaded(each) for each in [begin(tmp_path) for _ in range(3)]]
    assert sorted(each.pop("compiled") for each in told) == [False, False, True]
    assert told[0] == told[1] == told[2]


def test_what_is_damaged_is_compiled_again(tmp_path: Path) -> None:
    loaded(begin(tmp_path))
    (kept,) = (tmp_path / "programs").glob("*.bcc")
    kept.write_bytes(kept.read_bytes()[:1000])
    assert loaded(begin(tmp_path))["compiled"]
    assert not loaded(begin(tmp_path))["compiled"]
