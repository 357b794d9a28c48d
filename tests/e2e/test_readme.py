"""Every command of the README is run, and the code in it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.test_plugin import pytest_in

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)\n```", README, re.MULTILINE | re.DOTALL)


def test_the_two_commands_are_there() -> None:
    assert COMMANDS[:2] == ["sudo ./tb check", "sudo ./tb test"]


ON_OBJECTS = [command for command in COMMANDS if " build" in command and " report" not in command]
IN_A_LAB = [command for command in COMMANDS if " demo" in command]
OF_A_RUN = [command for command in COMMANDS if " --record" in command or " last" in command]
GROUPED = [*ON_OBJECTS, *IN_A_LAB, *OF_A_RUN]


def run(command: str, state: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = command.removeprefix("sudo ").split()  # we are root, and sudo need not be there
    if words[-1] == "test":
        words += ["--collect-only", "-q"]  # we are what it would run
    done = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100", **({"TESTBED_STATE": str(state)} if state else {})},
        timeout=300 if "matrix" in words else 120,  # kernels to fetch, and guests that are emulated
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.long
def test_what_is_built_is_inspected_loaded_and_checked() -> None:
    """In this order: each command needs what the first has built."""
    assert ON_OBJECTS[0] == "./tb build -o build"
    assert len(ON_OBJECTS) == 4
    for command in ON_OBJECTS:
        run(command)


@pytest.mark.long
def test_a_lab_comes_up_and_goes_down() -> None:
    assert [command.split()[2] for command in IN_A_LAB] == ["up", "exec", "maps", "down"]
    for command in IN_A_LAB:
        run(command)


@pytest.mark.long
def test_a_run_is_kept_told_and_reported(tmp_path: Path) -> None:
    assert [command.split()[-1] for command in OF_A_RUN] == ["all", "the_inbound_record", "build/report.html"]
    for command in OF_A_RUN:
        run(command, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in GROUPED])
def test_a_command_works(command: str) -> None:
    done = run(command)
    if command.endswith("check"):
        verdicts = [line for line in README.splitlines() if line.startswith("  ") and line.endswith("pass")]
        shown = [line for line in verdicts if "…" not in line]  # with which a matrix counts rows
        ran = [line.rstrip() for line in done.stdout.splitlines()]
        assert not [line for line in shown if line not in ran], "the README shows another run"
        assert len(shown) > 40


def test_the_ten_lines_work(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    done = pytest_in(tmp_path, code, "--family", "v4")
    assert "1 passed" in done.stdout, done.stdout


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).exists(), target
