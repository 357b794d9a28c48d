"""./tb: what it does when something is missing, and that it does nothing otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


@pytest.fixture
def bare() -> Iterator[Path]:
    """A checkout in which nothing was installed yet, for anybody to read (pytest's folders are not)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file in ("tb", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / file, folder)
        yield folder


def test_without_root_it_says_why_and_how(bare: Path) -> None:
    done = subprocess.run([*NOBODY, bare / "tb", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "tb: root is needed to install packages, and to make namespaces, cgroups and BPF programs."
        " Run: sudo ./tb check"
    ]


def test_elsewhere_than_debian_it_names_the_guide(bare: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "dirname", "readlink"):
        (programs / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [bare / "tb", "check"], capture_output=True, text=True, check=False, env={"PATH": str(programs)}
    )
    assert done.returncode == 3
    assert "docs/install.md" in done.stderr


def test_when_nothing_is_missing_it_changes_nothing() -> None:
    stamp = ROOT / ".venv/tb-stamp"
    if not stamp.exists():
        pytest.skip("not run through ./tb")
    before = stamp.stat().st_mtime_ns
    done = subprocess.run([ROOT / "tb", "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("testbed 0.1.0\n", "")
    assert stamp.stat().st_mtime_ns == before


def test_it_can_be_called_from_anywhere_and_by_a_link(tmp_path: Path) -> None:
    if not (ROOT / ".venv/tb-stamp").exists():
        pytest.skip("not run through ./tb")
    (tmp_path / "link").symlink_to(ROOT / "tb")
    done = subprocess.run(
        [tmp_path / "link", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={**os.environ},
    )
    assert done.stdout == "testbed 0.1.0\n"
