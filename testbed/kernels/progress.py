"""What a person sees of a download: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import TransferSpeedColumn as SpeedColumn


class Progress(Protocol):
    """Told of what is going on. Nothing here may fail what it is told of."""

    def say(self, line: str) -> None:
        """One line that a person should know of."""

    def step(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` bytes of ``what`` are there; the first and the last call have 0 and all."""


class Quiet:
    """Says nothing."""

    def say(self, line: str) -> None:
        """Not told."""

    def step(self, what: str, done: int, total: int) -> None:
        """Not told."""


class Lines:
    """A line for each beginning."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)

    def step(self, what: str, done: int, total: int) -> None:
        if not done:
            size = f" ({total / 1e6:.1f} MB)" if total else ""
            self.say(f"fetching {what}{size}")


class _Bars:
    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars

    def say(self, line: str) -> None:
        self._bars.console.print(line, soft_wrap=True, markup=False)

    def step(self, what: str, done: int, total: int) -> None:
        task = next((task.id for task in self._bars.tasks if task.description == what), None)
        if task is None:
            task = self._bars.add_task(what, total=total or None)
        self._bars.update(task, completed=done, total=total or None)


@contextmanager
def shown(console: Console | None = None) -> Iterator[Progress]:
    """Bars while the block runs where ``console`` (standard error otherwise) is a terminal, else lines."""
    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn())
    with RichProgress(*columns, TimeRemainingColumn(), console=console) as bars:
        yield _Bars(bars)
