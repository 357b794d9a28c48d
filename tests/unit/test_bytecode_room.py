"""No bytecode is written where a disk is nearly full: half a file of it keeps Python from starting."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from testbed import _has_room


@pytest.mark.parametrize(
    ("blocks", "size", "has_room"),
    [(0, 4096, False), (4096, 4096, False), (4097, 4096, True), (16 << 20, 1, False), (100, 1 << 20, True)],
)
def test_room(monkeypatch: pytest.MonkeyPatch, blocks: int, size: int, has_room: bool) -> None:
    """What others than root may have, in the file system's blocks, is more than 16 MiB."""
    found = SimpleNamespace(f_bavail=blocks, f_bfree=1 << 40, f_frsize=size)
    monkeypatch.setattr(os, "statvfs", lambda _path: found)
    assert _has_room("/") is has_room


def test_a_place_that_is_not_there() -> None:
    assert not _has_room("/none")
