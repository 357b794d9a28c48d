"""Finding kernel headers: Debian's two halves, one complete tree, none."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from testbed.bpf import headers
from testbed.errors import MachineError


@pytest.fixture(autouse=True)
def no_running_kernel_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(headers, "_RUNNING", tmp_path / "none")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


def tree(root: Path, name: str) -> Path:
    made = root / name
    (made / "arch/arm64/include/generated").mkdir(parents=True)
    version = made / "include/generated/uapi/linux/version.h"
    version.parent.mkdir(parents=True)
    version.touch()
    return made


def test_debian_has_two_halves(tmp_path: Path) -> None:
    half = tree(tmp_path, "linux-headers-6.1.0-50-arm64")
    common = tmp_path / "linux-headers-6.1.0-50-common"
    common.mkdir()
    found = headers.find_headers(tmp_path)
    assert found.source == common
    assert f"-I{half}/arch/arm64/include/generated/uapi" in found.flags


def test_a_complete_tree_is_its_own_source(tmp_path: Path) -> None:
    whole = tree(tmp_path, "linux-headers-6.8.0-45-generic")
    assert headers.find_headers(tmp_path).source == whole


def test_the_newest_version_by_number(tmp_path: Path) -> None:
    tree(tmp_path, "linux-headers-6.8.0-9-generic")
    newest = tree(tmp_path, "linux-headers-6.8.0-10-generic")
    assert headers.find_headers(tmp_path).source == newest


def test_what_bcc_is_told_by_hand_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", "/my/tree")
    assert headers.find_headers(tmp_path) == headers.Headers(Path("/my/tree"), ())


def test_none_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "linux-headers-6.1.0-50-amd64").mkdir()  # of another architecture
    with pytest.raises(MachineError, match="apt-get install linux-headers-"):
        headers.find_headers(tmp_path)
