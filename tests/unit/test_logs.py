"""Where long outputs go."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.logs import save_log


def test_one_file_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first, second = save_log("x", "one"), save_log("x", "two")
    assert first == second
    assert second.read_text(encoding="utf-8") == "two"
    assert list(second.parent.iterdir()) == [second]


@pytest.mark.parametrize("name", ["verifier-a/b", "x" * 300, "../up", "nul\0"])
def test_a_programs_name_can_hold_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = save_log(name, "text")
    assert path.read_text(encoding="utf-8") == "text"
    assert tmp_path in path.parents
    assert len(list(path.parent.iterdir())) == 1


def test_without_a_home_it_is_told_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/no/such/place")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = save_log("x", "text")
    assert path.parent == tmp_path
    assert path.read_text(encoding="utf-8") == "text"
