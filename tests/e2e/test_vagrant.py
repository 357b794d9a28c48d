"""The Vagrantfile and what it runs in the guest; the workflow that runs the matrix."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, Run

PROVISION = ROOT / "vagrant/provision"
WORKFLOW = ROOT / ".github/workflows/kernels.yml"

SERVED = (
    "linux-image-5.10.0-32-amd64",
    "linux-image-6.1.0-9-amd64",
    "linux-image-6.1.0-50-amd64",
    "linux-image-6.1.0-50-cloud-amd64",
    "linux-image-6.1.0-50-rt-amd64",
    "linux-image-6.1.0-60-amd64-unsigned",
    "linux-image-6.1.0-60-amd64-dbg",
    "linux-image-6.12.9+deb13-amd64",
    "linux-image-6.12.107+deb13-amd64",
    "linux-image-6.12.107+deb13-arm64",
    "linux-image-7.0.13+deb13-amd64",
    "linux-image-7.3.4+deb13-amd64",
)


def provision(*arguments: str, names: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROVISION, *arguments], input="\n".join(names) + "\n", capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("wanted", "architecture", "release"),
    [
        ("6.1", "amd64", "6.1.0-50-amd64"),  # no 6.12, and 50 is after 9
        ("6.12", "amd64", "6.12.107+deb13-amd64"),
        ("6.12.9", "amd64", "6.12.9+deb13-amd64"),
        ("6.12", "arm64", "6.12.107+deb13-arm64"),
        ("7", "amd64", "7.3.4+deb13-amd64"),
        ("7.0", "amd64", "7.0.13+deb13-amd64"),
        ("6.1.0-9-amd64", "amd64", "6.1.0-9-amd64"),
        ("linux-image-6.1.0-50-cloud-amd64", "amd64", "6.1.0-50-cloud-amd64"),
        ("6.2", "amd64", ""),
        ("5.1", "amd64", ""),
    ],
)
def test_the_kernel_that_is_meant(wanted: str, architecture: str, release: str) -> None:
    done = provision("choose", wanted, architecture, names=SERVED)
    assert (done.stdout.strip(), done.stderr) == (release, "")


@pytest.mark.parametrize(
    ("codename", "first", "last"),
    [
        ("bookworm", "bookworm-backports", "bullseye"),
        ("trixie", "trixie-backports", "bullseye"),
        ("forky", "forky", "bullseye"),
    ],
)
def test_suites_are_looked_through_from_near_to_far(codename: str, first: str, last: str) -> None:
    suites = provision("suites", codename).stdout.split()
    assert (suites[0], suites[-1]) == (first, last)
    assert len(suites) == len(set(suites))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("suites", "noble"), "cannot look for kernels: Debian's suite noble is unknown here"),
        (("kernel", "6.12; reboot"), "'6.12; reboot' is no kernel"),
        (("kernel", ""), "'' is no kernel"),
        ((), "say setup, kernel WANTED, boot or verify"),
    ],
)
def test_what_it_cannot_do_it_says(arguments: tuple[str, ...], message: str) -> None:
    done = provision(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"provision: {message}")


def test_another_kernel_than_asked_for_is_told(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_text("1.2.3-amd64\n", encoding="utf-8")
    done = subprocess.run(
        [PROVISION, "verify"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PROVISION_STATE": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"provision: the kernel asked for is 1.2.3-amd64, but {os.uname().release} was booted\n"
    )


def test_what_the_host_installed_is_not_carried_over() -> None:
    vagrantfile = (ROOT / "Vagrantfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    left_to_vagrant = {".vagrant/", "*.egg-info/"}
    for name in {line.removeprefix("/") for line in ignored} - left_to_vagrant:
        assert f'"{name}"' in vagrantfile


@pytest.mark.long
@pytest.mark.parametrize("kernel", ["", "6.12"])
def test_vagrant_finds_the_file_valid(kernel: str, tmp_path: Path) -> None:
    if shutil.which("vagrant") is None:
        pytest.skip("vagrant is not installed")
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={
            **os.environ,
            "KERNEL": kernel,
            "HOME": str(tmp_path),
            "VAGRANT_HOME": str(tmp_path / "home"),
            "VAGRANT_DOTFILE_PATH": str(tmp_path / "state"),
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Vagrantfile validated successfully." in done.stdout


@pytest.mark.long
def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    scripts = (PROVISION, ROOT / ".ci/provision-test", ROOT / ".ci/vagrant-box")
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)  # noqa: S607
    assert done.returncode == 0, done.stdout


def jobs() -> dict[str, Any]:
    return dict(yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"])


def test_the_workflow_takes_its_matrix_from_the_command() -> None:
    listing, kernel = jobs()["list"], jobs()["kernel"]
    (step,) = [step for step in listing["steps"] if step.get("id") == "list"]
    assert "./tb matrix --list --json" in step["run"]
    assert listing["outputs"] == {"kernels": "${{ steps.list.outputs.kernels }}"}
    assert kernel["needs"] == "list"
    assert kernel["strategy"] == {
        "fail-fast": False,
        "matrix": "${{ fromJSON(needs.list.outputs.kernels) }}",
    }
    assert kernel["env"]["KERNEL"] == "${{ matrix.kernel }}"


def test_each_kernel_leaves_its_results() -> None:
    steps = jobs()["kernel"]["steps"]
    (run,) = [step["run"] for step in steps if "./tb matrix" in step.get("run", "")]
    assert '--kernel "$KERNEL" --junit "results/' in run
    assert "--json" in run
    (upload,) = [step for step in steps if "upload-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == "results/"
    assert upload["if"] == "${{ !cancelled() }}", "a failure is what one wants to read about"


@pytest.mark.long
def test_the_list_is_what_a_matrix_takes(testbed_command: Run) -> None:
    done = testbed_command("matrix", "--list", "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert list(listed) == ["include"]
    assert listed["include"]
    assert all(isinstance(row["kernel"], str) for row in listed["include"])
