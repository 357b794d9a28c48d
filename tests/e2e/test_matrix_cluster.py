"""Cells on a Dask cluster: a real scheduler and two worker processes, one of which is killed in mid-cell."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import MachineError
from testbed.guest.state import GuestState
from testbed.lab.wait import eventually
from testbed.matrix.board import Board
from testbed.matrix.cell import Cell
from testbed.matrix.cluster import connected
from testbed.matrix.run import run_cells
from tests.conftest import ROOT

pytestmark = [
    # not `importorskip`: to import it takes a third of a second, of every session
    pytest.mark.skipif(find_spec("distributed") is None, reason="the cluster extra is not installed"),
    # the client's own threads and sockets end after the test that they are in
    pytest.mark.filterwarnings("default"),
]

START_S = 30.0
CELLS = '''
import os, threading
from pathlib import Path
from testbed.lab.wait import eventually
from testbed.guest.state import GuestReport, GuestState
from testbed.matrix.model import CellResult

FOLDER = Path({folder!r})

def run(cell, on_result):
    """Whoever has the first cell first tells its process id, and is at it for ever."""
    if cell.label == "first":
        try:
            with (FOLDER / "draft").open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            pass
        else:
            (FOLDER / "draft").rename(FOLDER / "pid")
            (FOLDER / "draft").touch()
            threading.Event().wait()
    if cell.label == "second":  # is done while the first is under way: there are two workers
        eventually((FOLDER / "pid").exists, awaited="the first cell", deadline=30)
    return CellResult(cell.label, GuestReport(GuestState.BOOTED, release=str(os.getpid())))

def fail(cell, on_result):
    raise ValueError(cell.label)
'''


@contextmanager
def process(module: str, *arguments: str, path: str) -> Iterator[subprocess.Popen[bytes]]:
    """A part of the cluster, killed at the end."""
    words = [sys.executable, "-m", f"distributed.cli.{module}", "--no-dashboard", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, cwd="/") as running:
        try:
            yield running
        finally:
            running.kill()


@dataclass(frozen=True)
class There:
    """A cluster: where its scheduler answers, and that process."""

    address: str
    scheduler: subprocess.Popen[bytes]


Start = Callable[..., There]


def is_whole(file: Path) -> bool:
    """It is not written at once."""
    try:
        return "address" in json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Start]:
    """Starts a scheduler and so many workers, which have this testbed or another."""
    with ExitStack() as stack:

        def start(workers: int, testbed: Path = ROOT) -> There:
            file = tmp_path / "scheduler.json"
            where = ("--scheduler-file", str(file))
            path = f"{testbed}:{tmp_path}"
            own = ("--host", "127.0.0.1", "--port", "0")
            scheduler = stack.enter_context(process("dask_scheduler", *own, *where, path=path))
            eventually(lambda: is_whole(file), awaited="the scheduler's file", deadline=START_S)
            for number in range(workers):
                local = ("--local-directory", str(tmp_path / f"worker-{number}"))
                single = ("--no-nanny", "--nthreads", "1", *local)
                stack.enter_context(process("dask_worker", *single, *where, path=path))
            return There(json.loads(file.read_text(encoding="utf-8"))["address"], scheduler)

        yield start


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that the workers see too."""
    (tmp_path / "cells_of_a_test.py").write_text(CELLS.format(folder=str(tmp_path)), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("cells_of_a_test")
    del sys.modules["cells_of_a_test"]


@contextmanager
def once_begun(folder: Path, act: Callable[[int], None]) -> Iterator[None]:
    """Does something when a worker is at the first cell; ``act`` is told its process id."""

    def wait() -> None:
        eventually((folder / "pid").exists, awaited="a worker at the first cell", deadline=START_S)
        act(int((folder / "pid").read_text(encoding="ascii")))

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.long
def test_a_worker_that_is_killed_in_mid_cell(cluster: Start, cells: Any, tmp_path: Path) -> None:
    asked = [Cell(label, label) for label in ("first", "second")]
    board = Board(asked)
    killed: list[int] = []
    second = threading.Event()

    def kill(pid: int) -> None:
        assert second.wait(START_S)
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)

    with connected(cluster(2).address, START_S) as there, once_begun(tmp_path, kill):
        run_cells(asked, there.submit(cells.run), board, lambda _: second.set())
    columns, _ = board.columns()
    assert [column.label for column in columns] == ["first", "second"]
    assert {column.guest.state for column in columns} == {GuestState.BOOTED}
    assert {column.guest.release for column in columns} & {str(pid) for pid in killed} == set()
    assert killed


@pytest.mark.long
def test_a_scheduler_that_is_killed_in_mid_cell(cluster: Start, cells: Any, tmp_path: Path) -> None:
    asked = [Cell("first", "first")]
    board = Board(asked)
    started = cluster(1)
    with (
        connected(started.address, START_S) as there,
        once_begun(tmp_path, lambda _: started.scheduler.kill()),
    ):
        run_cells(asked, there.submit(cells.run), board, lambda _: None)
    (column,) = board.columns()[0]
    assert (column.guest.state, column.guest.why) == (
        GuestState.LOST,
        "the cluster gave it up: its scheduler is gone",
    )


@pytest.mark.long
def test_what_a_worker_raises_is_told(cluster: Start, cells: Any) -> None:
    asked = [Cell("6.1", "6.1")]
    board = Board(asked)
    with connected(cluster(1).address, START_S) as there:
        assert (there.workers, there.jobs) == (1, 1)
        run_cells(asked, there.submit(cells.fail), board, lambda _: None)
    (column,) = board.columns()[0]
    assert column.guest.why == "a fault in the testbed itself: ValueError: 6.1"


@pytest.mark.long
def test_a_worker_with_another_testbed(
    cluster: Start, edited_checkout: Callable[[str, str, str], Path]
) -> None:
    other = edited_checkout("sockops.c", "watch_state(skops);", "watch_state( skops);")
    with (
        pytest.raises(MachineError, match=r"its testbed is .* and here it is"),
        connected(cluster(1, other).address, START_S),
    ):
        raise AssertionError("it is used")


@pytest.mark.long
def test_a_scheduler_without_workers(cluster: Start) -> None:
    with pytest.raises(MachineError, match="it has no workers"), connected(cluster(0).address, 1.0):
        raise AssertionError("it is used")


def test_nobody_answers() -> None:
    with pytest.raises(MachineError, match="reach the scheduler"), connected("tcp://127.0.0.1:9", 0.5):
        raise AssertionError("it is used")


@pytest.mark.parametrize("address", ["here", "udp://127.0.0.1:1"])
def test_no_address_at_all(address: str) -> None:
    with pytest.raises(MachineError, match="reach the scheduler"), connected(address, 0.5):
        raise AssertionError("it is used")
