"""The pytest plugin as others use it: in their own files, outside this repository."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TEN_LINES = """\
from testbed.kmesh.abi import Verdict

def test_close_clears_the_verdict(pair, mesh):
    mesh.manage(pair.client, pair.server)
    with pair.connect() as conn:
        mesh.verdicts[conn.tuple] = Verdict.DENY
        conn.close()
        mesh.eventually(lambda: conn.tuple not in mesh.verdicts)
"""


def pytest_in(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    )


@pytest.mark.long
def test_ten_lines_in_a_fresh_file(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, TEN_LINES)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_a_failure_names_what_was_awaited_seen_and_fired(tmp_path: Path) -> None:
    text = TEN_LINES.replace("conn.close()", "pass").replace(
        "in mesh.verdicts)", "in mesh.verdicts, deadline=0.05)"
    )
    done = pytest_in(tmp_path, text, "--family", "v6")
    assert done.returncode == 1
    assert "awaited for 0.05 s: conn.tuple not in mesh.verdicts" in done.stdout
    assert "conn = <Connection [fd77::1]:" in done.stdout
    assert ": DENY}" in done.stdout
    assert "server   PASSIVE_ESTABLISHED [fd77::2]:" in done.stdout


@pytest.mark.long
def test_any_failure_tells_the_story(tmp_path: Path) -> None:
    done = pytest_in(
        tmp_path, "def test_it(pair):\n    with pair.connect():\n        assert False\n", "--family", "v4"
    )
    assert "story" in done.stdout
    assert "◆ ACTIVE_ESTABLISHED" in done.stdout


@pytest.mark.long
def test_without_recording_it_shows_the_callbacks(tmp_path: Path) -> None:
    text = "def test_it(pair):\n    with pair.connect():\n        assert False\n"
    done = pytest_in(tmp_path, text, "--family", "v4", "--record", "off")
    assert "sockops callbacks" in done.stdout
    assert "client   ACTIVE_ESTABLISHED 10.77.0.1:" in done.stdout


@pytest.mark.long
def test_what_the_program_logs_fails_the_test(tmp_path: Path) -> None:
    text = """
def test_it(pair, mesh):
    mesh.manage(pair.client)
    with pair.listen() as listener, pair.client_socket() as sock:
        pair.client.connect(pair.server.address(4), listener.getsockname()[1], sock=sock)
        mesh.log._raw.append(bytes(4) + b"oh no".ljust(255, bytes(1)))
"""
    done = pytest_in(tmp_path, text, "--family", "v4")
    assert "the program logged: oh no (ret 0)" in done.stdout


@pytest.mark.long
def test_a_topology_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "three.yaml").write_text(
        """
name: three
hosts: {left: {gateway: middle}, middle: {}, right: {gateway: middle}}
links:
  - [{host: left, addresses: [10.1.0.1/24]}, {host: middle, addresses: [10.1.0.2/24]}]
  - [{host: middle, addresses: [10.2.0.2/24]}, {host: right, addresses: [10.2.0.1/24]}]
""",
        encoding="utf-8",
    )
    text = """
import pytest

@pytest.mark.topology("three.yaml")
def test_routed(lab, tap):
    lab["middle"].namespace.sysctl({"net/ipv4/ip_forward": "1"})
    with lab["right"].listen() as listener:
        with lab["left"].connect("10.2.0.1", listener.getsockname()[1]):
            listener.accept()[0].close()
    assert {callback.host for callback in tap} == {"left", "right"}
"""
    done = pytest_in(tmp_path, text)
    assert "1 passed" in done.stdout, done.stdout


def test_a_bad_family_is_a_usage_error(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, TEN_LINES, "--family", "v7")
    assert done.returncode == 4
    assert "--family: 'v7' is no family" in done.stderr


@pytest.mark.long
def test_a_setup_error_is_one_message(tmp_path: Path) -> None:
    text = "import pytest\n@pytest.mark.topology('nowhere')\ndef test_it(lab):\n    pass\n"
    done = pytest_in(tmp_path, text)
    assert done.returncode == 1
    assert "nowhere.yaml: there is no topology of this name" in done.stdout
    assert "Traceback" not in done.stdout
    assert "def " not in done.stdout


def test_importing_the_plugin_is_cheap() -> None:
    """It is imported in every run of pytest: nothing heavy may come with it."""
    code = (
        "import sys, pytest; before = set(sys.modules);"
        "import testbed.pytest_bill, testbed.pytest_lab, testbed.pytest_objects, testbed.pytest_plugin;"
        "import testbed.pytest_record;"
        "print(sorted(name.partition('.')[0] for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(done.stdout)) <= {"testbed", "json"}
