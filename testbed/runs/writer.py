"""Keeps a run: many processes add stories to one folder, and the one that began it ends it.

Each file appears whole or not at all, so that what a killed run had kept can be read.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from testbed.acquired import acquired
from testbed.closing import Closing
from testbed.errors import UsageError
from testbed.observe.events import Story
from testbed.runs import folder as places
from testbed.runs.codec import encoded
from testbed.runs.folder import (
    DRAFT,
    PACKETS,
    RUN_FILE,
    STORIES,
    VERDICTS_FILE,
    new_folder,
    remove,
    state_error,
)
from testbed.runs.model import Finding, Program, RunInfo, Verdict, Verdicts


@contextmanager
def _drafted(draft: Path, data: bytes) -> Iterator[Path]:
    """A file that is whole, to be given its name within the block; what has none by then goes."""
    try:
        with draft.open("wb") as file:
            acquired("file", draft)
            file.write(data)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


class RunWriter:
    """Adds stories to a run that `Recording` has begun, from any process.

    `UsageError` for a folder that is no run's.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / RUN_FILE).is_file():
            raise UsageError(f"record into {folder}", f"no run has been begun there (it has no {RUN_FILE})")
        acquired("kept folder", folder)
        self.folder = folder
        self._next = 1
        self._drafts = itertools.count()

    def add(self, story: Story, packets: bytes | None = None) -> int:
        """Keeps a story, and its packets as pcapng. Returns its number: the next that nobody has taken.

        `MachineError` where it cannot be written.
        """
        try:
            number = self._claim(encoded(story))
            if packets is not None:
                self._write(self.folder / PACKETS / f"{number:04}.pcapng", packets)
        except OSError as error:
            raise state_error(f"keep a story in {self.folder}", error) from error
        return number

    def _claim(self, data: bytes) -> int:
        with self._draft(STORIES, data) as draft:
            while True:
                number, self._next = self._next, self._next + 1
                try:
                    # rename() would put it in place of another process's
                    os.link(draft, self.folder / STORIES / f"{number:04}.json")
                except FileExistsError:
                    continue
                acquired("kept file", self.folder / STORIES / f"{number:04}.json")
                return number

    def _draft(self, room: str, data: bytes) -> AbstractContextManager[Path]:
        return _drafted(self.folder / room / f"{DRAFT}{os.getpid()}-{next(self._drafts)}", data)

    def _write(self, path: Path, data: bytes) -> None:
        with self._draft(path.parent.name if path.parent != self.folder else "", data) as draft:
            draft.rename(path)


class Recording(RunWriter, Closing):
    """A run that is being recorded: begun and ended by the process that makes this, which holds its lock.

    Without ``folder`` it is kept among the newest. `MachineError` where it cannot be written.
    """

    def __init__(self, info: RunInfo, folder: Path | None = None) -> None:
        made, self._fd = new_folder(folder)
        self._among_kept = made.parent == places.runs_dir()
        try:
            for room in (STORIES, PACKETS):
                (made / room).mkdir()
            with _drafted(made / f"{DRAFT}{os.getpid()}", encoded(info)) as draft:
                draft.rename(made / RUN_FILE)
        except OSError as error:
            if self._among_kept:
                remove(made)
            self.close()
            raise state_error(f"begin a run in {made}", error) from error
        super().__init__(made)

    def finish(
        self,
        verdicts: Sequence[Verdict],
        *,
        interrupted: bool = False,
        programs: Sequence[Program] = (),
        findings: Sequence[Finding] = (),
    ) -> None:
        """Writes the verdicts, and what the verifier and the doctor said: from now on the run is whole."""
        end = Verdicts(tuple(verdicts), interrupted, tuple(programs), tuple(findings))
        try:
            self._write(self.folder / VERDICTS_FILE, encoded(end))
        except OSError as error:
            raise state_error(f"keep the verdicts in {self.folder}", error) from error

    def discard(self) -> None:
        """Nothing in it is worth keeping: it goes, unless a person named the folder."""
        if self._among_kept:
            remove(self.folder)
        self.close()

    def close(self) -> None:
        """Lets go of it. A run that is not finished by now counts as cut short."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
