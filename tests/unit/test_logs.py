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


def test_without_a_home_it_is_told_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/no/such/place")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = save_log("x", "text")
    assert path.parent == tmp_path
    assert path.read_text(encoding="utf-8") == "text"
