"""cgroups and their records: what is removed when it resists, and what is kept until it is."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.errors import MachineError
from testbed.kernel import cgroup
from testbed.kernel.cgroup import CgroupRoot, cgroup_root, remove_tree
from testbed.kernel.ownership import owned_cgroup, reap


@pytest.fixture
def root() -> Iterator[CgroupRoot]:
    with cgroup_root() as found:
        yield found


class Busy:
    """Stands for a kernel that keeps a cgroup of an ended process for an instant."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left = times
        self._rmdir = os.rmdir
        monkeypatch.setattr(os, "rmdir", self._remove)

    def _remove(self, path: Path) -> None:
        if self.left:
            self.left -= 1
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self._rmdir(path)


def test_removal_waits_until_it_is_no_longer_busy(root: CgroupRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        path = root.path / f"sockops-testbed-test-{secrets.token_hex(8)}"
        path.mkdir()
        stack.callback(remove_tree, path)
        busy = Busy(monkeypatch, times=3)
        remove_tree(path)
        assert busy.left == 0
        assert not path.exists()


def test_what_cannot_be_removed_keeps_its_record(
    root: CgroupRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "REMOVE_DEADLINE_S", 0.02)
    with (
        monkeypatch.context() as patched,
        pytest.raises(MachineError, match=r"remove the cgroup .*EBUSY"),
        owned_cgroup(root, tmp_path) as path,
    ):
        Busy(patched, times=1000)
    assert path.exists()
    assert (tmp_path / f"{path.name}.json").exists()
    (reaped,) = reap(root, tmp_path)
    assert reaped.cgroup == path.name
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def dead_run(root: CgroupRoot, tmp_path: Path) -> Iterator[Path]:
    """What a run that was killed has left: its cgroup, and a record of it in ``tmp_path``."""
    path = root.path / f"sockops-testbed-{secrets.token_hex(8)}"
    path.mkdir()
    (tmp_path / f"{path.name}.json").write_text(json.dumps({"cgroup": path.name, "pid": 1}), encoding="utf-8")
    yield path
    remove_tree(path)


@pytest.mark.parametrize("strict", [True, False])
def test_a_bad_record_does_not_keep_the_rest(
    root: CgroupRoot, dead_run: Path, tmp_path: Path, strict: bool
) -> None:
    (tmp_path / "a.json").write_text("what is this", encoding="utf-8")
    if strict:
        with pytest.raises(MachineError, match="not a record of ours"):
            reap(root, tmp_path)
    else:
        assert [each.cgroup for each in reap(root, tmp_path, strict=False)] == [dead_run.name]
    assert not dead_run.exists()
    assert [left.name for left in tmp_path.iterdir()] == ["a.json"]


def test_a_locked_record_is_somebodys(root: CgroupRoot, dead_run: Path, tmp_path: Path) -> None:
    with (tmp_path / f"{dead_run.name}.json").open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert reap(root, tmp_path) == []
        assert dead_run.exists()
    assert len(reap(root, tmp_path)) == 1
    assert not dead_run.exists()
