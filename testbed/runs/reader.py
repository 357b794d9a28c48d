"""Reads runs that were kept: a folder, or a capsule, which is one of them in a single file."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import UsageError, errno_name
from testbed.observe.events import Story
from testbed.runs.archive import FILE_LIMIT, unpack
from testbed.runs.codec import decoded, document, typed
from testbed.runs.folder import (
    PACKETS,
    RUN_FILE,
    STORIES,
    VERDICTS_FILE,
    is_running,
    kept_runs,
    runs_dir,
)
from testbed.runs.model import FORMAT, RunInfo, Verdict, Verdicts

_STORY = re.compile(r"(\d{4,6})\.json")


@dataclass(frozen=True)
class Kept:
    """A story that was kept, and its number."""

    number: int
    story: Story


@dataclass(frozen=True)
class Run:
    """A run as far as it can be read. ``name`` is what a person calls it.

    ``note`` says in words that it is not whole: it still runs, or was cut short. ``end`` has the verdicts,
    of the stories where the run has not come to its end. ``kept`` are the stories in their order;
    ``damaged`` has a line for each file that could not be read.
    """

    name: str
    info: RunInfo
    end: Verdicts
    kept: tuple[Kept, ...]
    note: str
    damaged: tuple[str, ...]
    _member: Callable[[str], bytes | None]

    def packets(self, number: int) -> bytes | None:
        """The packets of a story as pcapng; None where there are none."""
        return self._member(f"{PACKETS}/{number:04}.pcapng")


def open_run(text: str) -> Run:
    """A run by its folder, its name, ``last``, or the file of a capsule. `UsageError` in one line."""
    path = Path(text)
    if text == "last":
        kept = kept_runs()
        if not kept:
            raise UsageError(
                "open the last run",
                f"none is kept in {runs_dir()}",
                "runs are kept for the user who ran them: with sudo, read them with sudo",
            )
        return read_folder(kept[-1])
    try:
        if path.is_dir():
            return read_folder(path)
        if path.exists():
            return archived_run(read_archive(path), str(path))
    except OSError as error:  # a name that is too long, a directory that is closed to this user
        raise UsageError(f"open the run {text}", errno_name(error.errno or 0)) from error
    named = {each.name: each for each in kept_runs()}
    if text in named:
        return read_folder(named[text])
    close = difflib.get_close_matches(text, [*named, "last"], 1)
    fix = f"did you mean {close[0]}?" if close else "give a folder, a run's name, a capsule's file, or `last`"
    raise UsageError(f"open the run {text}", "there is no such file, folder or run", fix)


def read_archive(path: Path) -> dict[str, bytes]:
    """The members of a capsule's file, by name. `UsageError` for a file that is none."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"read {path}", errno_name(error.errno or 0)) from error
    return unpack(data, str(path))


def read_folder(folder: Path) -> Run:
    """The run of a folder. `UsageError` where that is none."""

    def member(name: str) -> bytes | None:
        try:
            return _within(folder, name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UsageError(f"read {folder / name}", errno_name(error.errno or 0)) from error

    if member(RUN_FILE) is None:
        raise UsageError(f"open the run {folder}", f"it is no run's folder: there is no {RUN_FILE} in it")
    try:
        numbers = _numbers([path.name for path in (folder / STORIES).iterdir()])
        running = is_running(folder)
    except OSError as error:
        raise UsageError(f"read {folder / STORIES}", errno_name(error.errno or 0)) from error
    return _read(str(folder), member, numbers, "it is still running" if running else "it was cut short")


def _within(folder: Path, name: str) -> bytes:
    """A plain file of a run's folder: one that came from elsewhere can have links and pipes in it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"read {path}", "it is a link that leads out of the run's folder")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UsageError(f"read {path}", "it is no plain file")
        return file.read()


def archived_run(members: dict[str, bytes], name: str) -> Run:
    """The run in a capsule. `UsageError` where there is none."""
    if RUN_FILE not in members:
        raise UsageError(f"read {name}", f"there is no {RUN_FILE} in it")
    numbers = _numbers([each.partition("/")[2] for each in members if each.startswith(f"{STORIES}/")])
    return _read(name, members.get, numbers, "")


def _numbers(names: list[str]) -> list[int]:
    return sorted(int(match[1]) for name in names if (match := _STORY.fullmatch(name)))


def _read(name: str, member: Callable[[str], bytes | None], numbers: list[int], otherwise: str) -> Run:
    """``otherwise`` says what a run is that has no verdicts of its own; a capsule never has any."""
    info = typed(RunInfo, _current(member(RUN_FILE) or b"", f"{name}/{RUN_FILE}"), f"{name}/{RUN_FILE}")
    kept: list[Kept] = []
    damaged: list[str] = []
    for number in numbers:
        file = f"{STORIES}/{number:04}.json"
        try:
            kept.append(Kept(number, decoded(Story, member(file) or b"", f"{name}/{file}")))
        except UsageError as error:
            damaged.append(str(error))
    verdicts: Verdicts | None = None
    note = ""
    if (data := member(VERDICTS_FILE)) is not None:
        what = f"{name}/{VERDICTS_FILE}"
        try:
            verdicts = typed(Verdicts, _current(data, what), what)
        except UsageError as error:
            damaged.append(str(error))
        if verdicts is not None and verdicts.interrupted:
            note = "it was interrupted: what had not been run has no verdict"
    elif otherwise:
        note = f"{otherwise}: {_so_far(kept)}"
    end = verdicts or Verdicts(tuple(map(_verdict, kept)))
    return Run(name, info, end, tuple(kept), note, tuple(damaged), member)


def _so_far(kept: list[Kept]) -> str:
    if not kept:
        return "no story has been kept so far"
    return "1 story has been kept so far" if len(kept) == 1 else f"{len(kept)} stories have been kept so far"


def _verdict(kept: Kept) -> Verdict:
    told = kept.story
    return Verdict(told.test, told.title, told.verdict, details=told.message, story=kept.number)


def _current(data: bytes, what: str) -> object:
    """JSON of the format that is ours."""
    found = document(data, what)
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise UsageError(f"read {what}", "it does not say which format it has")
    if found["format"] != FORMAT:
        raise UsageError(f"read {what}", f"it is of format {found['format']}; this testbed reads {FORMAT}")
    return found
