"""The C sources, by both compilers, without a warning."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from testbed.bpf.program_set import ProgramSet
from testbed.data import data_dir

BPF = data_dir("bpf")
SOURCES = sorted(BPF.glob("*.c"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_clang_makes_an_object_without_a_warning(source: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [  # noqa: S607
            "clang",
            *("-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror"),
            *("-I", BPF / "include", "-I", f"/usr/include/{platform.machine()}-linux-gnu"),
            *("-DHAVE_NETNS_COOKIE", "-c", source, "-o", tmp_path / "x.o"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_bcc_compiles_without_a_warning(program_set: ProgramSet) -> None:
    assert program_set.diagnostics == ""


def test_sources_are_formatted() -> None:
    subprocess.run(
        ["clang-format", "--dry-run", "--Werror", *SOURCES, *BPF.glob("include/*.h")],  # noqa: S607
        check=True,
    )


@pytest.mark.parametrize("path", sorted(BPF.rglob("*.[ch]")), ids=lambda path: path.name)
def test_every_file_says_its_licence(path: Path) -> None:
    assert "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause" in path.read_text().splitlines()[0]
