"""Kernels of one's own: images, build trees, modules given with them."""

from __future__ import annotations

import gzip
import platform
from pathlib import Path

import pytest

from testbed.errors import MachineError, UsageError
from testbed.kernels.find import exact, find_kernels
from testbed.kernels.kernel import Kernel
from testbed.kernels.modules import load_order
from tests.kernel_samples import bzimage, module, vmlinux

RELEASE = "6.19.0-rc1+"
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the samples are of x86-64")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def image_at(path: Path, release: str = RELEASE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bzimage(release, gzip.compress(vmlinux(release))))
    return path


def put_modules(folder: Path) -> None:
    for name, depends in (("net/low", ()), ("drivers/net/veth", ("low",))):
        path = folder / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(module(depends=depends, name=path.stem))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """As a build leaves it: no modules.dep, the modules beside their sources."""
    image_at(tmp_path / "linux" / "arch" / "x86" / "boot" / "bzImage")
    put_modules(tmp_path / "linux")
    release = tmp_path / "linux" / "include" / "config" / "kernel.release"
    release.parent.mkdir(parents=True)
    release.write_text(f"{RELEASE}\n", encoding="utf-8")
    return tmp_path / "linux"


def one(name: Path | str, modules: Path | None = None) -> Kernel:
    (kernel,) = find_kernels([str(name)], modules=modules)
    return kernel


def test_an_image(tmp_path: Path) -> None:
    path = image_at(tmp_path / "bzImage")
    kernel = one(path)
    assert (kernel.label, kernel.release, kernel.modules) == (str(path), RELEASE, None)
    assert kernel.image.read_bytes() == vmlinux(RELEASE)


def test_a_build_tree(tree: Path) -> None:
    kernel = one(tree)
    assert kernel.release == RELEASE
    assert kernel.modules is not None
    assert kernel.modules.name == RELEASE
    assert [each.name for each in load_order(kernel, ["veth"])] == ["low", "veth"]


def test_what_is_built_again_is_another_kernel(tree: Path) -> None:
    first, again = one(tree), one(tree)
    (tree / "net" / "low.ko").write_bytes(module(name="low") + b"more")
    changed = one(tree)
    assert first == again
    assert changed.digest != first.digest
    assert load_order(changed, ["low"])[0].data.endswith(b"more")


@pytest.mark.parametrize("inner", [Path(), Path("lib") / "modules" / RELEASE], ids=["itself", "a root"])
def test_modules_given_with_an_image(tmp_path: Path, inner: Path) -> None:
    put_modules(tmp_path / "given" / inner / "kernel")
    kernel = one(image_at(tmp_path / "bzImage"), tmp_path / "given")
    assert [each.name for each in load_order(kernel, ["veth"])] == ["low", "veth"]


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    path = image_at(tmp_path / "bzImage")
    one(path).image.write_bytes(b"nothing")
    assert one(path).image.read_bytes() == vmlinux(RELEASE)


def test_the_same_kernel_twice_is_one(tmp_path: Path) -> None:
    path = image_at(tmp_path / "bzImage")
    assert len(find_kernels([str(path), str(path.parent / "." / "bzImage")])) == 1


def test_a_path_is_its_own_exact_name(tmp_path: Path) -> None:
    assert exact(str(tmp_path)) == str(tmp_path)


def test_what_cannot_be_used_is_told(tmp_path: Path, tree: Path) -> None:
    image = image_at(tmp_path / "bzImage")
    (tmp_path / "empty").mkdir()
    for two in ("lib/modules/1", "lib/modules/2"):
        (tmp_path / "both" / two).mkdir(parents=True)
    rows: list[tuple[Path, Path | None, str]] = [
        (tmp_path / "none", None, "no such file"),
        (tmp_path / "empty", None, "no built kernel is in it"),
        (tree / "net" / "low.ko", None, "without a PVH entry"),
        (image, tmp_path / "none", "no such directory"),
        (image, tmp_path / "empty", "there are none"),
        (image, tmp_path / "both", "of several kernels: 1, 2"),
    ]
    for path, modules, words in rows:
        with pytest.raises(UsageError) as caught:
            one(path, modules)
        assert words in str(caught.value), path


def test_a_tree_configured_anew_but_not_built_is_told(tree: Path) -> None:
    (tree / "include" / "config" / "kernel.release").write_text("6.20.0\n", encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"it is 6\.19\.0-rc1\+, and the tree's configuration is of 6\.20\.0"
    ):
        one(tree)


def test_modules_need_a_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--modules"):
        find_kernels(["6.1"], modules=tmp_path)


@pytest.mark.skipif(Path(f"/boot/vmlinuz-{platform.release()}").exists(), reason="the host's kernel is here")
def test_a_host_without_its_image_is_told() -> None:
    with pytest.raises(MachineError, match=platform.release()):
        one("host")
