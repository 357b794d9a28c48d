"""`testbed load --connections`: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from testbed.commands.load import load
from testbed.errors import ExitCode, UsageError
from testbed.kernel.cgroup import processes
from testbed.lab.wait import eventually
from testbed.pressure.report import as_json, print_result
from testbed.pressure.result import Request, RingResult
from testbed.pressure.run import slices_of
from tests.conftest import ROOT, Run
from tests.e2e.test_killed import assert_gone, stopped_belongings
from tests.machine import cgroups_of
from tests.pressure import AUTH, OBSERVE, ROOMY, Press, pressing


@pytest.fixture(scope="module")
def press(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Press]:
    with pressing(tmp_path_factory.mktemp("objects")) as made:
        yield made


RING = RingResult("observe", "ring", 100, 100, 100, 85, stalled=False, loss_was_asked_for=False)


@pytest.mark.parametrize(
    ("ring", "problem"),
    [
        (RING, ""),
        (replace(RING, produced=90, received=90), "10 of 100 records lost; the ring holds 85"),
        (replace(RING, produced=90, received=90, loss_was_asked_for=True), ""),
        (replace(RING, received=90, loss_was_asked_for=True), "90 records were read, of 100 that the"),
        (replace(RING, produced=101, received=101), "1 records more than expected"),
        (
            replace(RING, produced=84, received=84, stalled=True, loss_was_asked_for=True),
            "should hold 85 records, and it held 84",
        ),
        (replace(RING, expected=None), ""),
    ],
)
def test_what_is_wrong_with_a_ring(ring: RingResult, problem: str) -> None:
    found = list(ring.problems())
    assert problem in "".join(found)
    assert len(found) == bool(problem)


def test_the_report(press: Press) -> None:
    """Also of a run that went wrong: then the exit code says so."""
    result = press(300, {AUTH: 4096, OBSERVE: 1 << 22}, stalled=frozenset({"auth_requests"}))
    console = Console(file=io.StringIO(), width=120)
    assert print_result(console, result) == ExitCode.PASSED
    data = json.loads(as_json(result))
    assert data["connections"] == {"opened": 300, "accepted": 300, "whole": 300}
    assert [ring["lost"] for ring in data["rings"] if ring["role"] == "auth_requests"] == [215]
    assert data["problems"] == []
    broken = replace(result, request=Request(300), sockhash_left=1, verdicts=replace(result.verdicts, left=2))
    assert print_result(console, broken) == ExitCode.FAILED
    assert isinstance(console.file, io.StringIO)
    text = " ".join(console.file.getvalue().split())
    assert "auth_requests (km_auth_req), stalled 300 85 215 85" in text
    assert "300 connections opened, 300 accepted (by the kernel's count 300 and 300)" in text
    assert "2 verdicts are left of connections that closed after they were written" in text
    assert "1 sockets are left in the sockhash" in text
    assert "the program logged 215 errors" in text
    assert print_result(console, replace(result, interrupted=True)) == ExitCode.INTERRUPTED
    other = replace(result, kernel={"client": {"TcpActiveOpens": 299}, "server": {"TcpPassiveOpens": 300}})
    assert other.problems() == ["the kernel counts 299 (TcpActiveOpens of the client), the workers 300"]
    failed = replace(result.with_program[0], connect_errors={"ETIMEDOUT": 2}, opened=298)
    failed_run = replace(result, with_program=(failed,)).problems()
    assert "connect() failed 2 times: ETIMEDOUT" in failed_run
    assert f"298 connections were opened, {failed.accepted} accepted" in failed_run


@pytest.mark.parametrize(
    ("connections", "concurrency", "slices"),
    [(1, 1, [1]), (100_000, 64, [2500] * 40), (1005, 1, [100] * 10 + [5]), (1000, 300, [600, 400])],
)
def test_slices(connections: int, concurrency: int, slices: list[int]) -> None:
    assert slices_of(connections, concurrency) == slices


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "load objects: none is named"),
        ("x.o --verdicts", "use --verdicts: .* --connections asks for none"),
        ("--connections 1 --log", "use --log"),
        ("--connections 1 --abi main", "use --abi"),
        ("--connections 1 --family v5", "'v5' is no family: choose one of v4, v6, mapped, mapped-client"),
        ("--connections 1 --stall-only nothing", "'nothing' is none of observe, auth_requests, log"),
        ("--connections 1 --json /nowhere/x", "write /nowhere/x: ENOENT"),
        ("--connections 1 --max-entries km_socket", "it is not MAP=N"),
    ],
)
def test_what_makes_no_sense(arguments: str, message: str) -> None:
    _, output, error = command(*arguments.split())
    assert isinstance(error, UsageError), output
    assert re.search(message, str(error))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "fill the map nothing: the set has no map of that name"),
        (AUTH, "type ringbuf, not a hash or a sockhash; --stall fills it"),
    ],
)
def test_what_cannot_be_filled(press: Press, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        press(1, full=(name,))


def command(*arguments: str) -> tuple[int, str, BaseException | None]:
    """The command as `testbed.cli` has it: its exit code, output and error."""
    app = typer.Typer()
    app.command()(load)
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output, done.exception


def test_the_command(press: Press, tmp_path: Path) -> None:
    sockops, *others = map(str, press.objects)
    written = tmp_path / "result.json"
    sizes = [word for name, size in ROOMY.items() for word in ("--max-entries", f"{name}={size}")]
    named = [word for path in others for word in ("--object", path)]
    code, output, _ = command(
        "--connections", "300", "--verdicts", "--json", str(written), *sizes, *named, sockops
    )
    assert code == ExitCode.PASSED, output
    assert "era       main" in output
    assert "300 connections in" in output
    assert json.loads(written.read_text(encoding="utf-8"))["connections"]["whole"] == 300


ENDLESS = """
import typer
from testbed.commands.load import load
app = typer.Typer()
app.command()(load)
app(["--connections", "100000000"])
"""


@pytest.fixture
def endless() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def connections_made(pid: int) -> int:
    """How many connections of a run's labs have ended: their TIME_WAITs."""
    tops = [path for path in cgroups_of(pid) if path.name.startswith("sockops-testbed-")]
    stats = []
    for each in (each for path in tops for each in processes(path)):
        with suppress(OSError):  # it has ended meanwhile
            stats.append((Path("/proc") / str(each) / "net/sockstat").read_text(encoding="ascii"))
    return max(
        (int(found[1]) for text in stats for found in [re.search(r" tw (\d+)", text)] if found), default=0
    )


@pytest.fixture
def under_way(endless: subprocess.Popen[str]) -> subprocess.Popen[str]:
    eventually(lambda: connections_made(endless.pid) > 100, awaited="connections", deadline=20)
    return endless


@pytest.mark.long
def test_a_killed_run_leaves_nothing(under_way: subprocess.Popen[bytes], testbed_command: Run) -> None:
    held = stopped_belongings(under_way)
    assert {what.split()[0] for what in held} >= {"prog", "map", "link", "cgroup", "process"}
    under_way.kill()
    under_way.wait()
    assert testbed_command("gc").returncode == 0
    assert_gone(held)


@pytest.mark.long
def test_ctrl_c_tells_what_was_measured(under_way: subprocess.Popen[str]) -> None:
    held = stopped_belongings(under_way)  # type: ignore[arg-type]
    under_way.send_signal(signal.SIGINT)
    under_way.send_signal(signal.SIGCONT)
    output, errors = under_way.communicate(timeout=20)
    assert under_way.returncode == ExitCode.INTERRUPTED, errors
    assert "interrupted; what was measured until then is shown above" in errors
    assert re.search(r"[\d,]+ connections opened", output)
    assert_gone(held)
