"""cgroups whose records are lost: gc knows a dead run's by its mark, and no other."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.kernel.cgroup import cgroup_root, remove_tree
from testbed.kernel.ownership import reap
from testbed.owner_mark import mark_as_own, owner_is_dead, owner_of
from tests.conftest import ROOT

MARK = (
    "import sys, pathlib; from testbed.owner_mark import mark_as_own; mark_as_own(pathlib.Path(sys.argv[1]))"
)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with cgroup_root() as root:
        path = root.path / f"sockops-testbed-{secrets.token_hex(8)}"
        (path / "lab-1").mkdir(parents=True)
        try:
            yield path
        finally:
            remove_tree(path)


def marked_by_the_dead(path: Path, *prefix: str) -> None:
    subprocess.run([*prefix, sys.executable, "-c", MARK, str(path)], cwd=ROOT, check=True)


def reaped() -> set[str]:
    with cgroup_root() as root:
        return {each.cgroup for each in reap(root, strict=False)}


def test_a_dead_runs_is_removed(cgroup: Path) -> None:
    marked_by_the_dead(cgroup)
    assert owner_is_dead(cgroup) or not cgroup.exists()
    reaped()  # or another run's start, a moment before
    assert not cgroup.exists()


def test_the_livings_and_nobodys_are_not(cgroup: Path) -> None:
    assert cgroup.name not in reaped()
    mark_as_own(cgroup)
    assert owner_of(cgroup) > 0
    assert cgroup.name not in reaped()
    assert cgroup.is_dir()


def test_one_with_somebody_in_it_is_not(cgroup: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as process:  # noqa: S607
        # first, as whoever starts a run takes an empty one away
        (cgroup / "lab-1/cgroup.procs").write_text(str(process.pid), encoding="ascii")
        marked_by_the_dead(cgroup)
        assert cgroup.name not in reaped()
        process.kill()


def test_one_of_another_pid_namespace_is_not(cgroup: Path) -> None:
    """Its owner has a number there that is another's here."""
    marked_by_the_dead(cgroup, "unshare", "--pid", "--fork", "--mount-proc")
    assert not owner_is_dead(cgroup)
    assert cgroup.name not in reaped()
