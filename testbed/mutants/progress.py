"""A progress bar on a terminal, drawn by whoever steps: a thread of its own would be in every fork."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """What is being done, one thing after the other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._counts: Counter[str] = Counter()

    def begin(self, what: str, total: int) -> None:
        """The next thing, of so many steps."""
        self.end()
        self._task = self._progress.add_task(what, total=total, words="")
        self._progress.refresh()

    def step(self, word: str = "") -> None:
        """One more is done, of which the word is counted; without a word it is only drawn again."""
        if word and self._task is not None:
            self._counts[word] += 1
            words = ", ".join(f"{count} {name}" for name, count in self._counts.items())
            self._progress.update(self._task, advance=1, words=words)
        self._progress.refresh()

    def end(self) -> None:
        """Nothing is being done."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = None
        self._counts.clear()


@contextmanager
def progress_bar(console: Console) -> Iterator[Bar]:
    """A bar that leaves nothing behind; none where the console is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    with Progress(*columns, console=console, auto_refresh=False, transient=True, disable=hidden) as progress:
        yield Bar(progress)
