"""What a start does not import: each of these takes longer than all the rest of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"bcc", "hypothesis", "jinja2", "markdown_it", "pydantic", "pyroute2", "scapy", "yaml"}
PLUGINS = ", ".join(f"testbed.pytest_{name}" for name in ("bill", "lab", "objects", "plugin", "record"))


@pytest.mark.parametrize(
    ("start", "heavy"),
    [
        (["-c", "import testbed"], HEAVY | {"pytest", "rich", "typer"}),
        (["-m", "testbed", "--help"], HEAVY | {"pytest", "rich.traceback"}),
        (["-c", f"import {PLUGINS}"], HEAVY | {"rich", "typer"}),
        (["-m", "testbed", "ls"], HEAVY - {"pydantic"} | {"pytest", "testbed.kmesh"}),
        (["-m", "testbed", "gc"], HEAVY - {"pydantic"} | {"pytest", "testbed.kmesh"}),
    ],
    ids=["package", "help", "plugins", "ls", "gc"],
)
def test_a_start_is_light(start: list[str], heavy: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *start], capture_output=True, text=True, check=True
    )
    imported = {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line
    }
    assert not heavy & imported
