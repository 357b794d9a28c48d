"""The commands as a person runs them: what they print, and how they exit."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from testbed.bpf.elf.clang import compile_object
from testbed.check import Request, run_check
from testbed.errors import UsageError
from testbed.lab.wait import eventually
from tests.conftest import ROOT, Run
from tests.machine import cgroups_of

Edit = Callable[[str, str, str], Path]
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def test_a_check_prints_the_table(testbed_command: Run) -> None:
    done = testbed_command("check", "-k", "enrols or exactly_four")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["scenario", "v4", "v6", "mapped", "mapped-client"]
    row = next(line for line in lines if "port 929" in line)
    assert row.split()[-3:] == ["pass", "pass", "pass"]
    assert "8 passed in" in lines[-1]


@pytest.mark.long
def test_families_are_columns(testbed_command: Run) -> None:
    done = testbed_command("check", "--family", "mapped", "-k", "enrols")
    assert done.stdout.splitlines()[0].split() == ["scenario", "mapped"]
    assert "1 passed" in done.stdout


def test_list_is_one_scenario_a_line_and_needs_no_root(testbed_command: Run) -> None:
    done = testbed_command("check", "--list", prefix=NOBODY)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) > 100
    assert "1_enrolment::port_929_enrols[v4]  port 929: the local address is managed" in lines


@pytest.mark.long
def test_junit(testbed_command: Run, tmp_path: Path) -> None:
    file = tmp_path / "out.xml"
    done = testbed_command("check", "-k", "enrols", "--junit", str(file), "-n", "2")
    assert done.returncode == 0, done.stderr
    (suite,) = ET.parse(file).getroot()  # noqa: S314 (we wrote it)
    assert (suite.get("tests"), suite.get("failures")) == ("4", "0")


def test_a_failed_scenario_is_1_and_tells_its_story(testbed_command: Run, edited_checkout: Edit) -> None:
    bpf = edited_checkout("include/authorize.h", "verdict_remove(&tuple);", "") / "bpf"
    compile_object(bpf / "sockops.c", [bpf / "include"], bpf / "sockops.o")
    words = ("check", "-k", "deletes_the_verdict", "--family", "v6")
    done = testbed_command(*words, "--object", str(bpf / "sockops.o"))
    assert done.returncode == 1
    assert "FAIL 4_close::closing_deletes_the_verdict[v6]" in done.stdout
    assert "awaited for 2 s: connection.tuple not in mesh.verdicts" in done.stdout
    assert "STATE LAST_ACK → CLOSE" in done.stdout
    assert "1 failed" in done.stdout.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_a_c_error_is_one_message(
    testbed_command: Run, edited_checkout: Edit, options: tuple[str, ...]
) -> None:
    root = edited_checkout("sockops.c", "watch_state(skops);", "watch_state(skop);")
    done = testbed_command("check", *options, cwd=root)
    assert done.returncode == 3
    assert "cannot compile reference with bcc: use of undeclared identifier 'skop'" in done.stderr
    assert f"{root}/bpf/sockops.c:" in done.stderr
    assert "watch_state(skop);" in done.stderr
    assert done.stderr.count("undeclared identifier") == 1
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.long
def test_a_verifier_rejection_is_one_message(testbed_command: Run, edited_checkout: Edit) -> None:
    root = edited_checkout("sockops.c", "if (!sk || !is_managed(skops))", "if (!is_managed(skops))")
    done = testbed_command("check", cwd=root)
    assert done.returncode == 3
    first, *rest = done.stderr.splitlines()
    assert first.startswith("testbed: cannot load sockops_prog (sockops): Permission denied: R2 type=")
    log = Path(rest[-1].rpartition(" is in ")[2])
    assert "processed" in log.read_text(encoding="utf-8")
    assert any("storage_get" in line for line in rest), done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"expression": "no_such_thing"}, "there is none"),
        ({"expression": "(("}, "it is no expression"),
        ({"family": "v5"}, "'v5' is no family: choose from v4,v6,mapped,mapped-client"),
        ({"workers": "many"}, "'many' is neither a number of processes nor auto"),
        ({"workers": "99999"}, "99999 processes are more than 16 for each of the machine's CPUs"),
        ({"junit": Path("/no/such/dir/x.xml")}, "No such file or directory"),
    ],
)
def test_usage_errors_are_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run_check(Request(**{"family": "v4", **given}), Console(file=io.StringIO()))
    assert "\n" not in caught.value.why


@pytest.mark.parametrize(
    ("arguments", "message"), [(("-k", "(("), "it is no expression"), (("--bogus",), "No such option")]
)
def test_usage_errors_are_2(in_process: Run, arguments: tuple[str, ...], message: str) -> None:
    done = in_process("check", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("command", ["check", pytest.param("gc", marks=pytest.mark.long), "test"])
def test_without_root_it_is_3_in_one_line(testbed_command: Run, command: str) -> None:
    done = testbed_command(command, prefix=NOBODY)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "it needs root, to make namespaces and cgroups and to load BPF programs; run it with sudo" in line


def test_version_and_help(testbed_command: Run, in_process: Run) -> None:
    assert testbed_command("--version", prefix=NOBODY).stdout == "testbed 0.1.0\n"
    for arguments in (["--help"], ["check", "--help"], ["doctor", "--help"]):
        done = in_process(*arguments)
        assert done.returncode == 0
        assert "Example" in done.stdout


@pytest.mark.long
def test_a_persons_own_pytest_settings_do_not_reach_a_check(testbed_command: Run) -> None:
    done = testbed_command("check", "-k", "enrols", env={"PYTEST_ADDOPTS": "--no-such-option"})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("stories", "said", "shown"),
    [
        pytest.param(0, " before the first verdict", "", id="at once"),
        pytest.param(2, "; what had been run is shown above", "scenario", id="in the middle"),
    ],
)
def test_ctrl_c_shows_what_had_been_run_and_leaves_nothing(
    tmp_path: Path, stories: int, said: str, shown: str
) -> None:
    """The second story is kept when the first verdict has fallen; without the lock nobody compiles."""
    kept = tmp_path / "cache/programs"
    kept.mkdir(parents=True)
    lock = os.open(kept, os.O_RDONLY)
    if not stories:
        fcntl.flock(lock, fcntl.LOCK_EX)
    words = ["check", "--record", "all", "--run", str(tmp_path / "run")]
    with subprocess.Popen(
        # whoever runs the tests in the background ignores Ctrl-C, and that is inherited
        ["env", "--default-signal=INT", sys.executable, "-m", "testbed", *words],  # noqa: S607
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TESTBED_CACHE": str(kept.parent)},
    ) as process:
        eventually(
            lambda: cgroups_of(process.pid) and len(list(tmp_path.rglob("stories/*.json"))) >= stories,
            awaited="what the run makes",
            deadline=120,
        )
        (cgroup, *_) = cgroups_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody
        output, errors = process.communicate(timeout=20)
    os.close(lock)
    assert process.returncode == 130
    assert errors == f"testbed: interrupted{said}\n"
    assert output.startswith(shown) if shown else not output
    assert not cgroup.exists()


def test_a_reader_that_has_read_enough() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" -m testbed check --list | head -n 1', sys.executable],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("1_enrolment::")
    assert done.stderr == ""


@pytest.mark.long
def test_output_that_cannot_be_written() -> None:
    def run(device: str, *prefix: str, **env: str) -> tuple[int, str]:
        with Path(device).open("wb") as output:
            done = subprocess.run(
                [*prefix, sys.executable, "-m", "testbed", "check", "--list"],
                cwd=ROOT,
                env={**os.environ, **env},
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        return done.returncode, done.stderr

    code, said = run("/dev/full")
    assert code == 3
    assert said.startswith("testbed: cannot write what it has to say: ENOSPC (No space left on device)\n")
    assert run("/dev/null", "sh", "-c", 'exec "$0" "$@" >&-') == (0, "")
    assert run("/dev/null", PYTHONIOENCODING="ascii") == (0, "")


def test_a_current_directory_that_was_removed(testbed_command: Run, tmp_path: Path) -> None:
    gone = ("sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh")
    done = testbed_command("check", "--list", prefix=gone, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("testbed: cannot run check: the current directory was removed\n  → ")


def test_a_fault_of_ours_is_one_message_too(testbed_command: Run, edited_checkout: Edit) -> None:
    root = edited_checkout("sockops.c", "", "")
    (root / "testbed/doctor.py").write_text("raise ValueError('oops')", encoding="utf-8")
    done = testbed_command("doctor", cwd=root)
    assert done.returncode == 3
    assert done.stderr.startswith(
        "testbed: a fault in the testbed itself: ValueError: oops\n  → please report"
    )
    assert len(done.stderr.splitlines()) == 2
