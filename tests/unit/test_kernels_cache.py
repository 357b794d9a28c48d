"""The cache: whole entries or none, damage seen, what was used longest ago goes first."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.errors import MachineError, UsageError
from testbed.kernels import cache
from testbed.kernels.cache import Damaged

MB = 1 << 20


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    monkeypatch.delenv("TESTBED_CACHE_CAP", raising=False)
    return tmp_path


def add(name: str, used_at: float | None = None, size: int = MB) -> Path:
    def fill(entry: Path) -> None:
        (entry / "inner").mkdir()
        (entry / "inner" / "file").write_bytes(b"x" * size)

    path = cache.add_entry("things", name, fill)
    if used_at is not None:
        os.utime(path, (used_at, used_at))
    return path


def flip(file: Path) -> None:
    file.write_bytes(b"y" + file.read_bytes()[1:])


def flip_secretly(file: Path) -> None:
    times = file.stat()
    flip(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def copy_over(file: Path) -> None:
    file.write_bytes(file.read_bytes())


@pytest.mark.parametrize(
    ("harm", "wholly", "is_seen"),
    [
        (flip, False, True),
        (flip_secretly, False, False),
        (flip_secretly, True, True),
        (copy_over, False, False),
        (copy_over, True, False),
        (Path.unlink, False, True),
        (lambda file: file.write_bytes(b""), False, True),
        (lambda file: (file.parent.parent / ".record.json").write_bytes(b"{"), False, True),
        (lambda file: (file.parent.parent / ".record.json").write_bytes(b"[]"), False, True),
        (lambda file: (file.parent.parent / ".record.json").unlink(), False, True),
    ],
)
def test_damage_is_seen(harm: Callable[[Path], object], wholly: bool, is_seen: bool) -> None:
    path = add("one")
    cache.verify_entry(path, wholly=True)
    harm(path / "inner" / "file")
    if is_seen:
        with pytest.raises(Damaged, match=str(path)):
            cache.verify_entry(path, wholly=wholly)
    else:
        cache.verify_entry(path, wholly=wholly)


def test_an_entry_is_there_whole_or_not_at_all() -> None:
    def fill(entry: Path) -> None:
        (entry / "file").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.add_entry("things", "one", fill)
    assert list(cache.cache_dir("things").iterdir()) == []
    assert list(cache.side_dir("drafts").glob("*/*")) == []


def test_what_a_killed_process_left_is_no_hindrance() -> None:
    draft = cache.side_dir("drafts") / "things" / "one"
    draft.mkdir(parents=True)
    (draft / "half").touch()
    assert not (add("one") / "half").exists()


def test_a_full_disk_is_told() -> None:
    def fill(entry: Path) -> None:
        raise OSError(errno.ENOSPC, "full", str(entry))

    with pytest.raises(MachineError, match=r"ENOSPC[^→]*→ .*kernels prune"):
        cache.add_entry("things", "one", fill)


def test_what_was_used_longest_ago_goes_first() -> None:
    for name, at in (("old", 1000), ("older", 500), ("new", 2000)):
        add(name, at)
    cache.used(cache.cache_dir("things") / "older")
    assert [each.name for each in cache.apply_cap(2 * MB + MB // 2)] == ["things/old"]
    assert sorted(path.name for path in cache.cache_dir("things").iterdir()) == ["new", "older"]


def test_the_cap_is_over_all_rooms_and_kinds_of_entries() -> None:
    add("one", 1000)
    file = cache.cache_dir("others") / "file"
    file.write_bytes(b"x" * MB)
    os.utime(file, (500, 500))
    assert [each.name for each in cache.apply_cap(MB + MB // 2)] == ["others/file"]


def test_a_new_entry_pushes_out_old_ones_but_none_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_CACHE_CAP", "1.5M")
    add("old", 1000)
    add("one")
    add("two")
    assert sorted(path.name for path in cache.cache_dir("things").iterdir()) == ["one", "two"]


def test_pruned_wholly() -> None:
    add("one")
    (cache.side_dir("partial") / "begun").write_bytes(b"x" * MB)
    freed = cache.prune(everything=True)
    assert {each.name for each in freed} >= {"things/one", "partial"}
    assert sum(each.size for each in freed) >= 2 * MB
    assert not list(cache.side_dir("store").glob("*/*"))


def test_what_is_being_fetched_is_not_pruned() -> None:
    begun = cache.side_dir("partial") / "begun"
    begun.touch()
    with cache.locked(cache.WRITING, shared=True):
        cache.prune(everything=True)
        assert begun.exists()


def test_a_lock_is_one_processs() -> None:
    with cache.locked("x") as first, cache.locked("x", wait=False) as second:
        assert (first, second) == (True, False)
    with cache.locked("x", wait=False) as third:
        assert third


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("500M", 500 * MB), ("4G", 4 << 30), ("4 GiB", 4 << 30), ("1.5k", 1536)]
)
def test_sizes(text: str, size: int) -> None:
    assert cache.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "4X", "4GG", "many"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="no size"):
        cache.parse_size(text)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_told(root: Path) -> None:
    root.chmod(0o500)
    with pytest.raises(MachineError, match="TESTBED_CACHE"):
        cache.cache_dir("things")


def test_a_file_in_the_caches_place_is_told(root: Path) -> None:
    shutil.rmtree(root)
    root.touch()
    with pytest.raises(MachineError, match="TESTBED_CACHE"):
        cache.cache_dir("things")
