"""What the commands say on a machine that lacks something that they need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.e2e.test_cli import NOBODY

# A mount namespace of its own, for tests that hide what the machine has.
PRIVATE = ("unshare", "--mount", "--propagation", "private")
HIDE = 'mount -t tmpfs none "$0" && exec "$@"'
UNMOUNT_CGROUP2 = """umount $(awk '/ - cgroup2 /{print $5}' /proc/self/mountinfo) && exec "$@" """
WITHOUT_CGROUP2 = (*PRIVATE, "sh", "-c", UNMOUNT_CGROUP2, "sh")


def hiding(folder: str) -> tuple[str, ...]:
    """Runs the rest of the command line in a mount namespace of its own, where a directory is empty."""
    return (*PRIVATE, "sh", "-c", HIDE, folder)


@pytest.mark.long
def test_without_headers(testbed_command: Run) -> None:
    done = testbed_command("check", prefix=hiding("/usr/src"))
    assert done.returncode == 3
    assert "cannot find kernel headers for bcc" in done.stderr
    assert "apt-get install linux-headers-" in done.stderr


@pytest.mark.long
def test_without_btf(testbed_command: Run) -> None:
    done = testbed_command("check", prefix=hiding("/sys/kernel/btf"))
    assert done.returncode == 3
    assert "cannot find the kernel's BTF (/sys/kernel/btf/vmlinux): ENOENT" in done.stderr


@pytest.mark.long
def test_cgroup_v2_mounted_nowhere_is_mounted_privately(testbed_command: Run) -> None:
    done = testbed_command("check", "-k", "exactly_four", prefix=WITHOUT_CGROUP2)
    assert done.returncode == 0, done.stderr
    assert "4 passed" in done.stdout
    done = testbed_command("doctor", prefix=WITHOUT_CGROUP2)
    assert "ok   cgroups   v2, mounted privately" in done.stdout


def test_no_cgroup_v2_at_all(testbed_command: Run) -> None:
    """In a user namespace it cannot be mounted: the nearest to a kernel without cgroup v2."""
    prefix = (*WITHOUT_CGROUP2, "unshare", "--user", "--map-root-user")
    done = testbed_command("check", prefix=prefix)
    assert done.returncode == 3
    assert (
        "cannot find cgroup v2: it is mounted nowhere, and mounting it privately fails with EPERM"
        in done.stderr
    )
    assert "this process is in a user namespace" in done.stderr


@pytest.mark.long
def test_without_bcc(testbed_command: Run, tmp_path: Path) -> None:
    (tmp_path / "bcc.py").write_text("raise ImportError('No module named bcc')", encoding="utf-8")
    done = testbed_command("check", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3
    assert "cannot import bcc: No module named bcc" in done.stderr
    assert "apt-get install python3-bpfcc" in done.stderr


@pytest.mark.long
def test_without_clang_the_tap_is_compiled_by_bcc(testbed_command: Run, tmp_path: Path) -> None:
    done = testbed_command("check", "-k", "exactly_four", "--family", "v6", env={"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    done = testbed_command("build", "-o", str(tmp_path / "o"), env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        3,
        "testbed: cannot find clang: ENOENT (No such file or directory)",
    )


@pytest.mark.long
def test_the_unrelated_bcc_is_recognised(testbed_command: Run, tmp_path: Path) -> None:
    (tmp_path / "bcc.py").touch()
    done = testbed_command("check", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3
    assert "unrelated PyPI package" in done.stderr


@pytest.mark.long
def test_doctor_tries_everything(testbed_command: Run) -> None:
    done = testbed_command("doctor")
    assert done.returncode == 0, done.stdout
    assert all(line.startswith("ok ") for line in done.stdout.splitlines())
    found = json.loads(testbed_command("doctor", "--json").stdout)
    assert [finding["name"] for finding in found][:3] == ["root", "kernel", "BTF"]
    assert all(finding["ok"] for finding in found)


@pytest.mark.long
def test_doctor_says_what_mends_it(testbed_command: Run) -> None:
    done = testbed_command("doctor", prefix=hiding("/usr/src"))
    assert done.returncode == 3
    assert "FAIL headers" in done.stdout
    assert "→ apt-get install linux-headers-" in done.stdout
    assert "–    programs  not tried: it needs headers" in done.stdout


@pytest.mark.long
def test_doctor_without_root(testbed_command: Run) -> None:
    done = testbed_command("doctor", prefix=NOBODY)
    assert done.returncode == 3
    assert "→ sudo testbed doctor" in done.stdout
    done = testbed_command("doctor", prefix=NOBODY, env={"TESTBED_COMMAND": "./tb"})
    assert "→ sudo ./tb doctor" in done.stdout
