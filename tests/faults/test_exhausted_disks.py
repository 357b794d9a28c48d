"""Full and read-only disks, what is not mounted, and who should read the output: as in `test_exhausted`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from testbed.errors import MachineError
from testbed.matrix.command import Gathered, concluded
from testbed.matrix.files import Outputs
from testbed.matrix.model import MatrixResult
from testbed.report.outputs import Unwritten, add_output, write_output
from tests.conftest import ROOT
from tests.faults.poverty import Place, Poverty, command_line, poor
from tests.faults.told import CHECK, RECORDED, assert_clear, assert_clear_or_well, long, warm
from tests.matrix_results import column


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return warm(tmp_path)


# Disks.

Lack = Callable[[Place], Poverty]


def full(*names: str, size: str = "64k", filled: bool = True) -> Lack:
    def lack(place: Place) -> Poverty:
        paths = [str(getattr(place, name)) for name in names]
        return Poverty(tmpfs=[(path, f"size={size}") for path in paths], filled=paths if filled else ())

    return lack


def read_only(*names: str) -> Lack:
    return lambda place: Poverty(read_only=[str(getattr(place, name, name)) for name in names])


UNKEPT = "not every story is kept: cannot"
DISKS = {
    "state full": (full("state"), 0, ("ENOSPC", UNKEPT, "state/runs", "TESTBED_STATE")),
    "state runs full at 16k": (
        full("state", size="16k", filled=False),
        0,
        ("ENOSPC", UNKEPT, "TESTBED_STATE"),
    ),
    "state runs full at 64k": (
        full("state", size="64k", filled=False),
        0,
        ("ENOSPC", UNKEPT, "TESTBED_STATE"),
    ),
    "state without inodes": (full("state", size="1m,nr_inodes=3", filled=False), 0, ("ENOSPC", UNKEPT)),
    "state full at the verdicts": (
        full("state", size="1m,nr_inodes=16", filled=False),
        0,
        ("ENOSPC", UNKEPT + " keep the verdicts in"),
    ),
    "state read-only": (read_only("state"), 3, ("EROFS", "state/runs", "TESTBED_STATE")),
    "cache full": (full("cache"), 0, ()),
    "cache runs full": (full("cache", size="16k", filled=False), 0, ()),
    "cache read-only": (read_only("cache"), 0, ()),
    "TMPDIR full": (full("tmp"), 0, ()),
    "TMPDIR read-only": (read_only("tmp"), 0, ()),
    "TMPDIR and cache full": (full("tmp", "cache"), 0, ()),
    "registry full": (full("run"), 3, ("ENOSPC", "register the cgroup", "0 of 64 KiB")),
}


@pytest.mark.long
@pytest.mark.parametrize("name", DISKS)
def test_disks(tmp_path: Path, place: Place, name: str) -> None:
    lack, code, words = DISKS[name]
    own = Place(tmp_path) if "cache" in name else place
    ended = poor(own, lack(own), *RECORDED)
    assert_clear(ended, *words, code=code)
    if code == 0:
        assert "4 passed" in ended.out, ended.told()


@long
@pytest.mark.parametrize(
    ("option", "size"), [("--junit", "64k"), ("--junit", "4k"), ("--stories", "64k"), ("--stories", "8k")]
)
def test_a_disk_that_is_full_of_what_was_asked_for(place: Place, option: str, size: str) -> None:
    """The verdicts are shown before it is told; what there was before stays, and no half of a file."""
    poverty = full("out", size=size, filled=size == "64k")(place)
    asked = "check", "-k", "2_established", "--family", "v4"
    ended = poor(place, poverty, *asked, option, str(place.out / "file"))
    assert_clear(ended, "ENOSPC", str(place.out / "file"))
    assert " passed" in ended.out


@long
@pytest.mark.parametrize("option", ["--junit", "--stories", "--run", "--capsule"])
def test_a_read_only_disk_for_what_was_asked_for(place: Place, option: str) -> None:
    ended = poor(place, read_only("out")(place), *RECORDED, option, str(place.out / "there"))
    assert_clear(ended, "EROFS (Read-only file system)", str(place.out / "there"))
    assert not ended.out.strip(), "before anything has run"


@long
@pytest.mark.parametrize("home", ["/proc/none", "/dev/null", ""])
def test_a_home_that_does_not_exist(place: Place, home: str) -> None:
    nowhere = {"HOME": home, "TESTBED_STATE": "", "TESTBED_CACHE": ""}
    assert_clear_or_well(poor(place, Poverty(), *CHECK, "--record", "off", env=nowhere))
    if home:
        ended = poor(place, Poverty(), *CHECK, env=nowhere)
        assert_clear(ended, "cannot keep stories", "TESTBED_STATE")


@long
@pytest.mark.parametrize("size", ["16k", "64k", "200k"])
def test_a_failure_is_a_failure_on_a_full_disk(
    place: Place, edited_checkout: Callable[[str, str, str], Path], size: str
) -> None:
    """Its story is shown; only that it could not be kept is told, once for all failures."""
    broken = edited_checkout("sockops.c", "BPF_SOCK_OPS_STATE_CB_FLAG", "0")
    poverty = full("state", size=size, filled=False)(place)
    ended = poor(place, poverty, "check", "-k", "2_established", "--family", "v4", cwd=broken)
    assert ended.code == 1, ended.told()
    assert ended.said.count("ENOSPC") == 1, ended.told()
    assert ended.out.count(UNKEPT) == 1, ended.told()
    assert "flags: none, not STATE" in ended.out, "its story is told"
    assert not ended.left, ended.told()


@long
@pytest.mark.parametrize("most", [8, 24, 60, 92, 104])
def test_a_checkout_on_a_full_disk_starts_again(tmp_path: Path, most: int) -> None:
    """Python 3.11 leaves half a .pyc file where the disk runs full, and fails by it ever after."""
    disk, within = tmp_path / "disk", ROOT / "tests/faults/within.py"
    disk.mkdir()
    script = (
        "import pathlib, shutil, subprocess, sys, os\n"
        f"disk = pathlib.Path({str(disk)!r})\n"
        "for name in ('testbed', 'bpf', 'topologies'):\n"
        f"    shutil.copytree(pathlib.Path({str(ROOT)!r}, name), disk / name,"
        " ignore=shutil.ignore_patterns('__pycache__'))\n"
        "os.chdir(disk)\n"
        "left = os.statvfs('.')\n"
        f"(disk / 'filling').write_bytes(bytes(left.f_bavail * left.f_frsize - ({most} << 10)))\n"
        "for _ in range(2):\n"
        "    words = '-m', 'testbed', 'check', '--list', '-k', 'settings'\n"
        "    subprocess.run([sys.executable, *words], check=True)\n"
        "    (disk / 'filling').unlink(missing_ok=True)\n"
    )
    spec = Place(tmp_path / "place").spec(Poverty(tmpfs=[(str(disk), "size=14m")]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, str(within), spec, sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("settings as loaded") == 2


def test_an_output_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.write_text("before")
    file.chmod(0o640)
    write_output(file, "after")
    assert file.read_text() == "after"
    assert file.stat().st_mode & 0o777 == 0o640
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for write in (write_output, add_output):
            with pytest.raises(MachineError, match=r"write .*out\.json: EFBIG"):
                write(file, "x" * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"]
    assert file.read_text() == "after"


def test_a_matrix_is_shown_though_it_cannot_be_written(tmp_path: Path) -> None:
    """Guests have run for it: what can be written is, it is shown, and then it is told what is not."""
    matrix = MatrixResult((column("5.10", "p"),), "sockops.o", 1.0)
    written, unwritten = tmp_path / "m.xml", Unwritten()
    shown: list[MatrixResult] = []
    with unwritten.kept_back():
        Outputs(html=Path("/dev/full"), junit=written).write(matrix)
    assert "testsuite" in written.read_text(encoding="utf-8")
    with pytest.raises(MachineError, match=r"write /dev/full: ENOSPC"):
        concluded(Gathered(matrix, False, unwritten), shown.append)
    assert shown == [matrix]


# What is not mounted.

UNMOUNTED = {
    "bpffs": (Poverty(unmounted=["/sys/fs/bpf"]), 0, ()),
    "cgroups": (Poverty(unmounted=["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]), 0, ()),
    "BTF": (Poverty(tmpfs=[("/sys/kernel/btf", "size=4k")]), 3, ("ENOENT", "/sys/kernel/btf/vmlinux")),
    "sysfs": (Poverty(tmpfs=[("/sys", "size=4k")]), 3, ("ENOENT", "/sys/kernel/btf/vmlinux")),
    "sysctls": (Poverty(tmpfs=[("/proc/sys", "size=4k")]), 3, ("ENOENT",)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each == "bpffs" else long) for each in UNMOUNTED]
)
def test_what_is_not_mounted(place: Place, name: str) -> None:
    poverty, code, words = UNMOUNTED[name]
    assert_clear(poor(place, poverty, *CHECK), *words, code=code)


# Whoever listens.


@pytest.mark.parametrize(
    "words", [pytest.param(("schema",), id="schema"), pytest.param(CHECK, id="check", marks=long)]
)
def test_standard_output_is_full(place: Place, words: Sequence[str]) -> None:
    with Path("/dev/full").open("wb") as nowhere:
        ended = poor(place, Poverty(), *words, out=nowhere)
    assert_clear(ended, "ENOSPC", "cannot write what it has to say")


@long
def test_standard_error_is_full() -> None:
    """Nobody can be told; the exit code says it."""
    with Path("/dev/full").open("wb") as nowhere:
        done = subprocess.run(
            [*command_line("story", "none")],
            stdout=subprocess.DEVNULL,
            stderr=nowhere,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2


@pytest.mark.parametrize(
    "words", [pytest.param(("schema",), id="schema"), pytest.param(CHECK, id="check", marks=long)]
)
def test_nobody_reads_standard_output(place: Place, words: Sequence[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = poor(place, Poverty(), *words, out=writer)
    finally:
        os.close(writer)
    assert ended.code not in {0, 120}
    assert not ended.err
    assert not ended.left
