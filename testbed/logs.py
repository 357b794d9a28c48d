"""Long outputs (a compiler's, the verifier's) go into a file; the message names it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import mkstemp

import platformdirs

from testbed.acquired import acquired

KEPT = 20
"""As many logs of one kind stay, of those whose writers are gone."""


def log_folder() -> Path:
    """``$TESTBED_STATE/log``, else that of the user. It may not be there yet."""
    named = os.environ.get("TESTBED_STATE")
    return Path(named).absolute() / "log" if named else platformdirs.user_log_path("sockops-testbed")


def save_log(name: str, text: str) -> Path:
    """Writes ``text`` as the newest log called ``name`` and returns its path.

    One file a name, replaced each time, so that they do not pile up. Where that cannot be it is a temporary
    one; and where there is no room for it anywhere, or nothing in it yet, ``/dev/null``: what the log is
    about is to be told all the same.
    """
    name = re.sub(r"[^\w.#-]", "_", name)[:100]  # a program's name can hold anything
    data = text.encode(errors="backslashreplace")
    try:
        path = log_folder() / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        acquired("kept folder", path.parent)
        draft = path.with_name(f".{name}.{os.getpid()}")
        with ExitStack() as undo:
            undo.callback(draft.unlink, missing_ok=True)
            draft.write_bytes(data)
            draft.replace(path)
    except OSError:  # no home to write to: what is to be told matters more than where it is kept
        return _saved_elsewhere(name, data) if data else Path(os.devnull)
    return path


def _saved_elsewhere(name: str, data: bytes) -> Path:
    try:
        fd, path = mkstemp(prefix=f"{name}-", suffix=".log")
        acquired("kept file", path)  # for a person, whom a message tells of it
        with ExitStack() as undo:
            undo.callback(os.unlink, path)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            undo.pop_all()
    except OSError:
        return Path(os.devnull)
    return Path(path)


def prune_logs(prefix: str, written: Collection[str]) -> None:
    """Removes the logs of that prefix but the newest `KEPT`, and those that are still ``written``."""
    others = [path for path in log_folder().glob(f"{prefix}*.log") if path.stem not in written]
    with suppress(OSError):  # another has just removed one, or this user may not
        others.sort(key=lambda path: path.stat().st_mtime)
        for path in others[:-KEPT]:
            path.unlink(missing_ok=True)


def tidy_logs() -> None:
    """Removes the logs that a process was writing when it was killed."""
    for draft in log_folder().glob(".*"):
        writer = draft.suffix.removeprefix(".")
        if writer.isdecimal() and not Path("/proc", writer).exists():
            with suppress(OSError):  # this user may not
                draft.unlink(missing_ok=True)
