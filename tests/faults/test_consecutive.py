"""Runs in a row are counted and recorded; the first that does not pass ends them and is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.lab.wait import eventually
from tests.conftest import ROOT

DIES_WHILE_BUSY = """
import os
from pathlib import Path
from tests.faults.consecutive import busy
with busy():
    print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
    os.kill(os.getpid(), 9)
"""


def run(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "TESTBED_STATE": str(state)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def consecutive(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(state, "-m", "tests.faults.consecutive", *arguments)


@pytest.mark.long
def test_runs_in_a_row(tmp_path: Path) -> None:
    first = consecutive(tmp_path, "1", "-k", "enrols", "--nice", "1")
    assert (first.returncode, first.stderr) == (0, "")
    resumed = consecutive(tmp_path, "2", "-k", "enrols", "--nice", "1")
    assert "2 runs, 2 passed" in resumed.stdout
    lines = (tmp_path / "consecutive/quick-nice1-enrols.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(json.loads(line)["run"], json.loads(line)["counts"]) for line in lines] == [
        (1, {"passed": 1}),
        (2, {"passed": 1}),
    ]


@pytest.mark.long
def test_the_first_that_fails_is_the_last(tmp_path: Path) -> None:
    failed = consecutive(tmp_path, "3", "-k", "nothing_is_called_so")
    assert failed.returncode == 1
    assert "    1  exit code 2" in failed.stdout
    assert "    2  " not in failed.stdout
    kept = (tmp_path / "consecutive/quick-nothing_is_called_so-1.txt").read_text(encoding="utf-8")
    assert "cannot find scenarios that match" in kept
    again = consecutive(tmp_path, "3", "-k", "nothing_is_called_so")
    assert (again.returncode, "begin again with --anew" in again.stderr) == (1, True)


def test_other_work_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", DIES_WHILE_BUSY)
    workers = [Path("/proc") / pid for pid in done.stdout.split()]
    assert len(workers) == len(os.sched_getaffinity(0)), done.stderr
    eventually(
        lambda: not any((each / "cmdline").exists() and (each / "cmdline").read_bytes() for each in workers)
    )
