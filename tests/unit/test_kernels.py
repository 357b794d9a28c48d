"""Names of kernels, and what is in their files."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
import zstandard

from testbed.errors import MachineError, UsageError
from testbed.kernels.find import choose, matching
from testbed.kernels.image import open_image, read_image
from testbed.kernels.index import Index, Offer, Package
from testbed.kernels.kernel import Kernel
from testbed.kernels.modules import absent, load_order, needs, write_dependencies
from testbed.kernels.versions import series, upstream, version_key
from tests.kernel_samples import bzimage, module, vmlinux

RELEASE = "6.12.107+deb13-cloud-amd64"
VERSIONS = (
    *("5.10.9-1", "5.10.218-1", "6.1.0-1", "6.1.176-1~deb11u1", "6.1.176-1", "6.12.90-1", "6.12.90-2"),
    *("6.12.107-1~deb12u1", "6.12.107-1", "7.0-1", "7.3~rc7-1~exp1", "7.3-1", "7.3.4-1~bpo13+1", "1:2.0-1"),
)
needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the samples are of x86-64")


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="no dpkg to compare with")
def test_versions_sort_as_dpkg_has_them() -> None:
    backwards = VERSIONS[::-1]
    assert sorted(backwards, key=version_key) == list(VERSIONS)
    for older, newer in itertools.pairwise(VERSIONS):
        subprocess.run(["dpkg", "--compare-versions", older, "lt", newer], check=True)  # noqa: S607


@pytest.mark.parametrize(
    ("version", "of_series", "own"),
    [
        ("6.12.107-1~deb12u1", "6.12", "6.12.107"),
        ("7.3~rc7-1~exp1", "7.3", "7.3~rc7"),
        ("1:6.1.2-3", "", "6.1.2"),
        ("nonsense", "", "nonsense"),
    ],
)
def test_parts_of_a_version(version: str, of_series: str, own: str) -> None:
    assert (series(version), upstream(version)) == (of_series, own)


def offer(version: str, release: str, missing: tuple[str, ...] = ()) -> Offer:
    return Offer(version, release, "trixie", (Package("linux-image", "file:/x", 1, "00" * 32),), missing)


INDEX = Index(
    0.0,
    (
        offer("5.10.218-1", "5.10.0-30-cloud-amd64"),
        offer("6.1.176-1", "6.1.0-50-cloud-amd64"),
        offer("6.1.180-1", "6.1.0-52-cloud-amd64"),
        offer("6.12.107-1~deb12u1", "6.12.107+deb12-cloud-amd64"),
        offer("6.12.107-1", "6.12.107+deb13-cloud-amd64"),
        offer("6.19.14-1", "6.19.14+deb13-cloud-amd64", missing=("linux-modules-6.19.14",)),
        offer("7.2.12-1", "7.2.12+deb14-cloud-amd64"),
        offer("7.3~rc7-1", "7.3-cloud-amd64"),
    ),
)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("6.1", "6.1.180-1"),
        ("7", "7.3~rc7-1"),
        ("6", "6.12.107-1"),  # 6.19 cannot be had whole
        ("6.1.176", "6.1.176-1"),
        ("6.1.176-1", "6.1.176-1"),
        ("v6.1.176", "6.1.176-1"),
        ("6.1.0-50", "6.1.176-1"),
        ("6.1.0-50-cloud-amd64", "6.1.176-1"),
        ("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1"),
        ("6.12.107", "6.12.107-1"),
        ("6.12.107+deb12", "6.12.107-1~deb12u1"),
        ("7.3-rc7", "7.3~rc7-1"),
    ],
)
def test_names_of_a_kernel(name: str, version: str) -> None:
    assert choose(name, INDEX).version == version


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("5.15", "nearest are 5.10, 6.1, 6.12, 7.2"),
        ("6.1.178", "nearest are 6.1.176, 6.1.180;"),
        ("6.19", "no longer its linux-modules-6.19.14"),
        ("lts", "nearest are 5.10, 6.1, 6.12, 7.2, 7.3;"),
        ("5.1", "no such version"),
        ("6.1.0-5", "no such version"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(name, INDEX)
    assert words in str(caught.value)


def test_a_series_is_no_prefix() -> None:
    assert [each.series for each in matching("6.1", INDEX.offers)] == ["6.1", "6.1"]


def lz4_legacy(data: bytes) -> bytes:
    # two blocks, so that what follows the first is read too
    blocks = [lz4.block.compress(data[: 8 << 20], store_size=False)]
    blocks += [lz4.block.compress(data[8 << 20 :], store_size=False)] if len(data) > 8 << 20 else []
    return b"\x02\x21\x4c\x18" + b"".join(len(block).to_bytes(4, "little") + block for block in blocks)


PACKERS = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4_legacy,
}


@needs_x86
@pytest.mark.parametrize("packer", PACKERS.values(), ids=PACKERS)
def test_the_vmlinux_is_taken_out(packer: Callable[[bytes], bytes]) -> None:
    inner = vmlinux(RELEASE)
    size = len(inner).to_bytes(4, "little")  # the kernel's build appends it
    image = read_image(bzimage(RELEASE, packer(inner) + size), "x")
    assert (image.name, image.data, image.release) == ("vmlinux", inner, RELEASE)


@needs_x86
def test_lz4_of_several_blocks() -> None:
    inner = vmlinux(RELEASE) + bytes(range(256)) * (36 << 10)
    size = len(inner).to_bytes(4, "little")
    assert read_image(bzimage(RELEASE, lz4_legacy(inner) + size), "x").data == inner


@needs_x86
@pytest.mark.parametrize(
    "payload",
    [gzip.compress(vmlinux(RELEASE, pvh=False)), b"\x89LZO\0rest"],
    ids=["no PVH note", "LZO"],
)
def test_a_bzimage_boots_as_it_is(payload: bytes) -> None:
    whole = bzimage(RELEASE, payload)
    image = read_image(whole, "x")
    assert (image.name, image.data, image.release) == ("bzImage", whole, RELEASE)


@needs_x86
def test_a_vmlinux_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(vmlinux(RELEASE))
    (tmp_path / "vmlinux.gz").write_bytes(gzip.compress(vmlinux(RELEASE)))
    assert open_image(tmp_path / "vmlinux") == open_image(tmp_path / "vmlinux.gz")


@needs_x86
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "neither a bzImage's header nor an ELF's"),
        (b"#!/bin/sh\n" * 99, "neither a bzImage's header nor an ELF's"),
        (b"\x7fELF", "a damaged ELF"),
        (vmlinux(RELEASE, pvh=False), "without a PVH entry"),
        (vmlinux(RELEASE).replace(b"Linux version", b"Linux Version"), "no “Linux version” is in it"),
        (bzimage(RELEASE, gzip.compress(vmlinux(RELEASE)))[:-1], "cut short"),
        (bzimage(RELEASE, b"\x1f\x8b" + bytes(99)), "what is packed in it is damaged"),
        (bzimage(RELEASE, b"\xfd7zXZ\0" + bytes(99)), "what is packed in it is damaged"),
        (bzimage(RELEASE, b"\x28\xb5\x2f\xfd" + bytes(99)), "what is packed in it is damaged"),
        (
            bzimage(RELEASE, gzip.compress(vmlinux(RELEASE))[:-9] + bytes(9)),
            "what is packed in it is damaged",
        ),
        (bzimage(RELEASE, lzma.compress(vmlinux(RELEASE))), "bytes came out instead of"),
        (bzimage(RELEASE, b"\x02\x21\x4c\x18" + b"\xff" * 99), "what is packed in it is damaged"),
        (b"\x1f\x8bnothing", "gzip is damaged"),
    ],
)
def test_what_is_no_kernel_is_told(data: bytes, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_image(data, "/boot/x")
    assert words in str(caught.value)
    assert "/boot/x" in str(caught.value)


def test_another_architecture_is_told() -> None:
    with pytest.raises(MachineError, match="it is for EM_RISCV"):
        read_image(vmlinux(RELEASE, machine=243), "x")


@pytest.mark.parametrize("size", [0, 1, 63, 64, 80, 200, 300, 512])
def test_a_module_cut_short_needs_nothing_or_says_so(size: int, tmp_path: Path) -> None:
    whole = module(depends=["a", "b-c"])
    assert needs(whole) == ("a", "b_c")
    (tmp_path / "x.ko").write_bytes(whole[:size])
    if size < len(whole):
        with pytest.raises(MachineError, match="no whole module"):
            write_dependencies(tmp_path)


def kernel_of(folder: Path) -> Kernel:
    """top → mid-dle → base, each packed otherwise; ``other`` alone; ``ipv6`` built in."""
    inner = folder / "kernel" / "net"
    inner.mkdir(parents=True)
    (inner / "base.ko").write_bytes(module(name="base"))
    (inner / "mid-dle.ko.xz").write_bytes(lzma.compress(module(depends=["base"], name="mid_dle")))
    top = module(depends=["mid_dle", "base"], name="top")
    (inner / "top.ko.zst").write_bytes(zstandard.ZstdCompressor().compress(top))
    (inner / "other.ko.gz").write_bytes(gzip.compress(module(name="other")))
    (folder / "modules.builtin").write_text("kernel/net/ipv6/ipv6.ko\n", encoding="utf-8")
    write_dependencies(folder)
    return Kernel("x", "6.1", folder / "vmlinux", folder, "")


def test_what_a_module_needs_comes_first_and_once(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path)
    loaded = load_order(kernel, ["other", "top", "mid-dle", "ipv6", "nonsense"])
    assert [each.name for each in loaded] == ["other", "base", "mid_dle", "top"]
    assert all(each.data.startswith(b"\x7fELF") for each in loaded)
    assert absent(kernel, ["mid_dle", "mid-dle", "ipv6", "nonsense"]) == ["nonsense"]


@pytest.mark.skipif(shutil.which("depmod") is None, reason="no depmod to compare with")
def test_modules_dep_is_as_depmod_writes_it(tmp_path: Path) -> None:
    folder = tmp_path / "lib" / "modules" / "6.1"
    kernel_of(folder)
    ours = load_order(Kernel("x", "6.1", folder, folder, ""), ["top"])
    (folder / "modules.order").touch()
    subprocess.run(["depmod", "-b", tmp_path, "6.1"], check=True)  # noqa: S607
    assert load_order(Kernel("x", "6.1", folder, folder, ""), ["top"]) == ours


def test_modules_that_need_each_other_end(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text("a.ko: b.ko\nb.ko: a.ko\n", encoding="utf-8")
    for name in ("a.ko", "b.ko"):
        (tmp_path / name).write_bytes(module())
    kernel = Kernel("x", "6.1", tmp_path, tmp_path, "")
    assert {each.name for each in load_order(kernel, ["a"])} == {"a", "b"}


def test_a_damaged_module_is_told(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path)
    (tmp_path / "kernel/net/mid-dle.ko.xz").write_bytes(b"\xfd7zXZ\0nothing")
    with pytest.raises(MachineError, match=r"mid-dle\.ko\.xz: it is damaged"):
        load_order(kernel, ["top"])


def test_a_kernel_without_modules_loads_none() -> None:
    kernel = Kernel("x", "6.1", Path("/x"), None, "")
    assert load_order(kernel, ["veth"]) == []
    assert absent(kernel, ["veth"]) == []
