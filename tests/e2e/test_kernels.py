"""`testbed kernels` with an archive in a directory: what is had from it, and what is said otherwise."""

from __future__ import annotations

import gzip
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.errors import MachineError, TestbedError, UsageError
from testbed.kernels.archive import get_index
from testbed.kernels.find import every_series, exact, find_kernels, versions_between
from testbed.kernels.modules import load_order
from tests.conftest import Run
from tests.kernel_samples import Archive, cloud_kernel, make_archive, make_package, split_kernel, vmlinux

OLD, NEW = "5.10.0-1-cloud-amd64", "6.1.0-2-cloud-amd64"
SPLIT, HALF = "7.2.1+deb14-cloud-amd64", "7.0.1+deb13-cloud-amd64"
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
pytestmark = [
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here"),
    pytest.mark.skipif(shutil.which("gpg") is None, reason="no gpg to sign with"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the samples are of x86-64"),
]


class Told:
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.fetched: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, what: str, done: int, total: int) -> None:  # noqa: ARG002
        if not done:
            self.fetched.append(what)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """Two suites; of the one kernel in both the same package. 7.0 has lost its modules."""
    archive = make_archive(tmp_path_factory.mktemp("a"))
    old, new = cloud_kernel(archive, OLD, "5.10.1-1"), cloud_kernel(archive, NEW, "6.1.2-1")
    points = make_package(archive, "linux-image-6.1-cloud-amd64", "6.1.2-1", {}, f"linux-image-{NEW}")
    archive.publish("bookworm", [points, old, new])
    half = [path for path in split_kernel(archive, HALF, "7.0.1-1") if "modules" not in path.name]
    archive.publish("sid", [new, *split_kernel(archive, SPLIT, "7.2.1-1"), *half])
    yield archive
    subprocess.run(["gpgconf", "--homedir", archive.home / "gnupg", "--kill", "all"], check=True)  # noqa: S607


@pytest.fixture
def archive(published: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """The same in a directory of its own, to be harmed, with an empty cache."""
    copy = Archive(tmp_path / "archive", published.keyring, tmp_path)
    shutil.copytree(published.root, copy.root)
    for name, value in copy.environment.items():
        monkeypatch.setenv(name, value)
    return copy


def wrong(name: str) -> TestbedError:
    with pytest.raises(TestbedError) as caught:
        find_kernels([name], progress=Told())
    return caught.value


@pytest.mark.usefixtures("archive")
def test_kernels_are_found_and_fetched_once() -> None:
    told = Told()
    kernels = find_kernels(["7", "5.10", NEW, "6.1.2"], progress=told)
    assert [kernel.release for kernel in kernels] == [SPLIT, OLD, NEW]
    assert [kernel.label for kernel in kernels] == ["7", "5.10", NEW]
    assert kernels[0].image.name == "bzImage"
    assert kernels[1].image.read_bytes() == vmlinux(OLD)
    assert [each.name for each in load_order(kernels[1], ["high_one", "ipv6"])] == ["low", "high_one"]
    assert len(told.fetched) == 1 + 2 + 3
    again = Told()
    assert find_kernels(["7", "5.10", NEW], progress=again) == kernels
    assert again.fetched == again.lines == []


@pytest.mark.usefixtures("archive")
def test_exact_names() -> None:
    told = Told()
    assert every_series(progress=told) == ["5.10.1-1", "6.1.2-1", "7.2.1-1"]
    assert exact("6", progress=told) == "6.1.2-1"
    assert versions_between("7", "5.10", progress=told) == ["5.10.1-1", "6.1.2-1", "7.2.1-1"]
    with pytest.raises(UsageError, match=r"both are 6\.1\.2-1"):
        versions_between("6", "6.1", progress=told)
    with pytest.raises(UsageError, match=f"no longer its linux-modules-{HALF.replace('+', '.')}"):
        exact("7.0", progress=told)


def test_bad_lists_are_not_used(archive: Archive) -> None:
    release = archive.in_release("bookworm")
    release.write_bytes(release.read_bytes().replace(b"Codename: bookworm", b"Codename: bookwyrm"))
    error = wrong("6.1")
    assert "signature is bad" in error.why
    assert "bookworm" in error.details
    assert "apt.log" in error.details


def test_a_key_that_is_not_known(archive: Archive, tmp_path: Path) -> None:
    other = make_archive(tmp_path / "o")
    subprocess.run(["gpgconf", "--homedir", other.home / "gnupg", "--kill", "all"], check=True)  # noqa: S607
    os.environ["TESTBED_DEBIAN_KEYRING"] = str(other.keyring)  # set by the archive's fixture, which undoes it
    assert archive.keyring != other.keyring
    assert "a key that the keyring does not have" in wrong("6.1").why


def test_no_keyring(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_DEBIAN_KEYRING", str(archive.home / "none"))
    assert "there is no keyring" in wrong("6.1").why


def test_lists_that_are_not_what_was_signed(archive: Archive) -> None:
    folder = archive.root / "dists" / "bookworm" / "main" / "binary-amd64"
    text = (folder / "Packages").read_bytes().replace(b"5.10", b"5.11")
    (folder / "Packages").write_bytes(text)
    (folder / "Packages.gz").write_bytes(gzip.compress(text))
    error = wrong("6.1")
    assert "not what the signed lists say" in error.why, error


def test_a_package_that_is_not_what_was_signed(archive: Archive) -> None:
    for path in archive.root.glob(f"pool/*{NEW}*"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    error = wrong("6.1")
    assert "not what the signed lists say" in error.why, error
    assert not list((archive.home / "cache" / "store" / "kernels").iterdir())


def test_a_package_that_is_gone(archive: Archive) -> None:
    for path in archive.root.glob(f"pool/*{NEW}*"):
        path.unlink()
    assert "the archive does not have it" in wrong("6.1").why


def test_an_archive_that_is_none(archive: Archive) -> None:
    shutil.rmtree(archive.root / "dists")
    assert "there are no kernels" in wrong("6.1").why


def test_no_network(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_DEBIAN_ARCHIVE", "http://127.0.0.1:1/debian")
    assert archive.root.is_dir()
    error = wrong("6.1")
    assert "cannot be reached" in error.why
    assert "127.0.0.1:1" in error.why


def age(cache: Path, days: int) -> None:
    for path in (cache / "apt").glob("index-*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**data, "read": data["read"] - days * 86400}), encoding="utf-8")


def test_new_lists_once_a_day_and_cached_kernels_stay_known(archive: Archive) -> None:
    kernels = find_kernels(["5.10"], progress=Told())
    shutil.copy(archive.in_release("sid"), archive.in_release("bookworm"))
    shutil.rmtree(archive.root / "dists" / "bookworm")  # its 5.10 is no longer to be had
    told = Told()
    assert find_kernels(["5.10"], progress=told) == kernels
    assert told.fetched == []
    age(archive.home / "cache", 2)
    assert find_kernels(["5.10"], progress=told) == kernels
    assert told.fetched == ["the lists of kernels"]


def test_offline_the_newest_in_the_cache_stands_in(archive: Archive) -> None:
    (kernel,) = find_kernels(["6.1"], progress=Told())
    (index,) = (archive.home / "cache" / "apt").glob("index-*.json")
    data = json.loads(index.read_text(encoding="utf-8"))
    newer = next({**each, "version": "6.1.3-1"} for each in data["offers"] if each["version"] == "6.1.2-1")
    newer["packages"] = [{**newer["packages"][0], "url": "http://127.0.0.1:1/x.deb", "sha256": "00" * 32}]
    index.write_text(json.dumps({**data, "offers": [*data["offers"], newer]}), encoding="utf-8")
    told = Told()
    assert find_kernels(["6.1"], progress=told) == [kernel]
    assert f"{NEW} stands for 6.1" in told.lines[-1]
    assert "cannot be reached" in wrong("6.1.3").why


def test_damage_is_mended(archive: Archive) -> None:
    (kernel,) = find_kernels(["6.1"], progress=Told())
    kernel.image.write_bytes(b"x" + kernel.image.read_bytes()[1:])
    told = Told()
    assert find_kernels(["6.1"], progress=told) == [kernel]
    assert kernel.image.read_bytes() == vmlinux(NEW)
    assert len(told.lines) == len(told.fetched) == 1
    assert str(kernel.image) in told.lines[0]
    kernel.image.write_bytes(b"")
    shutil.rmtree(archive.root / "pool")
    error = wrong("6.1")
    assert str(kernel.image) in error.why
    assert "cannot be fetched again" in error.why
    assert "kernels fetch 6.1.2-1" in error.fix


@pytest.mark.long
def test_commands(archive: Archive, testbed_command: Run) -> None:
    environment = archive.environment
    listed = testbed_command("kernels", "list", env=environment)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["series", "7.2", "6.1", "5.10"]
    assert "cached" not in listed.stdout
    fetched = testbed_command("kernels", "fetch", "--all", env=environment)
    assert fetched.returncode == 0, fetched.stderr
    everything = json.loads(
        testbed_command("kernels", "list", "--all-versions", "--json", env=environment).stdout
    )
    assert [each["cached"] for each in everything] == [True, False, True, True]
    path = testbed_command("kernels", "path", "5.10", env=environment).stdout.splitlines()
    assert Path(path[0]).read_bytes() == vmlinux(OLD)
    assert path[1].endswith(f"lib/modules/{OLD}")
    pruned = testbed_command("kernels", "prune", "--all", env=environment)
    assert pruned.stdout.splitlines()[-1].endswith("MB freed")
    assert pruned.stdout.count("kernels/") == 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("fetch",), 2, "none is named"),
        (("fetch", "4.4"), 2, "the nearest are 5.10"),
        (("path", "/etc/hostname"), 2, "it is no kernel image"),
        (("prune", "--cap", "much"), 2, "no size"),
        (("prune", "--all", "--cap", "1G"), 2, "--all leaves nothing"),
        (("list", "--archive", "nowhere"), 2, "is no address"),
        (("list", "--archive", "http://127.0.0.1:1/debian"), 3, "the archive cannot be reached"),
    ],
)
@pytest.mark.usefixtures("archive")
def test_what_does_not_go_is_told(in_process: Run, words: tuple[str, ...], code: int, said: str) -> None:
    done = in_process("kernels", *words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody can write to; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user(published: Archive, public: Path) -> None:
    shutil.copytree(published.root, public / "archive")
    shutil.copy(published.keyring, public / "keyring.gpg")
    archive = Archive(public / "archive", public / "keyring.gpg", public)
    code = "from testbed.kernels.find import find_kernels; print(find_kernels(['6.1'])[0].image)"
    done = subprocess.run(
        [*NOBODY, sys.executable, "-c", code],
        env={**os.environ, **archive.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    image = Path(done.stdout.strip())
    assert image.read_bytes() == vmlinux(NEW)
    assert image.stat().st_uid == 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted")
def test_a_full_disk(archive: Archive, testbed_command: Run, tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=48k none "$0" && exec "$@"'
    (tmp_path / "small").mkdir()
    prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", mount, str(tmp_path / "small"))
    environment = {**archive.environment, "TESTBED_CACHE": str(tmp_path / "small")}
    done = testbed_command("kernels", "fetch", "--all", prefix=prefix, env=environment)
    assert done.returncode == 3
    assert "the disk is full" in done.stderr or "ENOSPC" in done.stderr
    assert "TESTBED_CACHE" in done.stderr


@pytest.mark.long
def test_the_archive_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    try:
        get_index(Told())
        (kernel,) = find_kernels(["5.10"], progress=Told())
    except MachineError as error:
        pytest.skip(f"no archive: {error}")
    assert [exact(name, progress=Told()).startswith(f"{name}.") for name in ("5.10", "6.1")] == [True, True]
    assert kernel.release.startswith("5.10.")
    assert [each.name for each in load_order(kernel, ["veth"])] == ["veth"]
