"""What the tests of the testbed share: running its commands as a person would, and looking at the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import settings
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent

# What whoever runs the tests has set, and a person has not: without bytecode, each start costs 0.3 s.
_NOT_INHERITED = {"TESTBED_COMMAND", "PYTHONDONTWRITEBYTECODE"}

Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long tests too")
    parser.addoption("--every-point", action="store_true", help="end runs at every point of their lives")
    parser.addoption(
        "--no-host-untouched",
        action="store_true",
        help="do not compare the machine before and after the tests",
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("tests", max_examples=200 if config.getoption("--long") else 10)
    settings.load_profile("tests")


def pytest_sessionstart(session: pytest.Session) -> None:
    if not session.config.getoption("--no-host-untouched"):
        from tests.untouched import watch

        watch(session.config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: run with --long"))


@pytest.fixture
def testbed_command() -> Run:
    """Runs ``testbed ARGS``; ``prefix`` comes before it, ``env`` is added to the environment."""

    def run(
        *arguments: str,
        prefix: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        timeout: float = 180,  # for what hangs: with all of the suite at once a whole check takes a minute
    ) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        return subprocess.run(
            [*prefix, sys.executable, "-m", "testbed", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env={**inherited, "COLUMNS": "120", **(env or {})},
            timeout=timeout,
        )

    return run


@pytest.fixture
def in_process() -> Run:
    """Runs ``testbed ARGS`` in this process, in a tenth of the time: for what a command says."""

    def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        from testbed.cli import app
        from testbed.errors import TestbedError

        done = CliRunner(env={"COLUMNS": "120", **(env or {})}).invoke(app, arguments)
        said, code = done.stderr, done.exit_code
        if isinstance(done.exception, TestbedError):
            said, code = f"{said}testbed: cannot {done.exception}\n", done.exception.exit_code
        elif done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(arguments, code, done.stdout, said)

    return run


@pytest.fixture
def edited_checkout(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """A copy of what the command runs from, with one replacement in a file of ``bpf/``."""

    def edit(file: str, old: str, new: str) -> Path:
        for name in ("testbed", "bpf", "topologies"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            subprocess.run(["cp", "-r", ROOT / name, tmp_path / name], check=True)  # noqa: S607
        path = tmp_path / "bpf" / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} has no {old!r} any more"
        path.write_text(text.replace(old, new), encoding="utf-8")
        return tmp_path

    return edit
