"""Cells on a Dask cluster: its workers are machines with this same testbed."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from testbed.errors import MachineError, UsageError
from testbed.matrix.cell import Cell
from testbed.matrix.digest import fingerprint
from testbed.matrix.model import CellResult
from testbed.matrix.run import CellFunction, Submit

_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Cluster:
    """``jobs`` is how many cells run at a time on all workers together."""

    executor: Executor
    jobs: int
    workers: int

    def submit(self, run: CellFunction) -> Submit:
        """Of a cell only its result comes back, by pickle: nobody is told of its verdicts as they fall."""
        here = fingerprint()
        return lambda cell: self.executor.submit(_on_worker, run, cell, here)


def _on_worker(run: CellFunction, cell: Cell, there: str) -> CellResult:
    """A worker may have come after the others were asked which testbed they have."""
    _compare("a worker", fingerprint(), there)
    return run(cell, None)


@contextmanager
def connected(address: str, patience: float = _PATIENCE_S) -> Iterator[Cluster]:
    """The cluster of a scheduler, ``tcp://HOST:PORT``, while the block runs.

    `UsageError` where its library is missing, `MachineError` where nobody answers for ``patience``
    seconds, no worker is there, or one has another testbed. A worker lost in the middle of a cell is the
    scheduler's to notice; it gives the cell to another.
    """
    try:
        library: Any = importlib.import_module("distributed")  # half a second, and an extra of the package
    except ImportError as error:
        raise UsageError(
            "use --scheduler",
            f"the package distributed cannot be imported: {error}",
            "pip install 'sockops-testbed[cluster]'",
        ) from error
    # a person is told once, by our message
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        asyncio.run(_reach(address, patience))
    except (OSError, ValueError, TypeError) as error:
        raise MachineError(f"reach the scheduler {address}", _first_line(error)) from error
    with library.Client(address, timeout=patience, set_as_default=False) as client:
        threads = _threads(client, address, patience)
        _check_testbeds(client)
        with client.get_executor(pure=False, retries=0) as executor:
            yield Cluster(executor, sum(threads.values()), len(threads))


async def _reach(address: str, patience: float) -> None:
    """Whether somebody answers. A client that has failed to connect complains once more as it is freed."""
    comm: Any = importlib.import_module("distributed.comm")
    (await comm.connect(address, timeout=patience)).abort()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _threads(client: Any, address: str, patience: float) -> Mapping[str, int]:
    try:
        client.wait_for_workers(1, timeout=patience)
    except TimeoutError as error:
        raise MachineError(
            f"use the scheduler {address}", "it has no workers", f"start some: dask worker {address}"
        ) from error
    threads: Mapping[str, int] = client.nthreads()
    return threads


def _check_testbeds(client: Any) -> None:
    """All that are there now: so that nothing is begun that would not end well."""
    here = fingerprint()
    answers: Mapping[str, object] = client.run(fingerprint, on_error="return")
    for worker, answer in sorted(answers.items()):
        if isinstance(answer, ImportError):
            raise MachineError(
                f"use the worker {worker}", "it has no testbed that knows of matrices", _fix(), str(answer)
            )
        if isinstance(answer, Exception):
            raise MachineError(f"use the worker {worker}", _first_line(answer))
        _compare(f"the worker {worker}", answer, here)


def _compare(worker: str, there: object, here: str) -> None:
    if there != here:
        raise MachineError(f"use {worker}", f"its testbed is {there}, and here it is {here}", _fix())


def _fix() -> str:
    return "install this very testbed there, and start the worker again"
