"""Long outputs (a compiler's, the verifier's) go into a file; the message names it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import platformdirs

KEPT = 20
"""As many logs of one kind stay, of those whose writers are gone."""


def log_folder() -> Path:
    """``$TESTBED_STATE/log``, else that of the user. It may not be there yet."""
    named = os.environ.get("TESTBED_STATE")
    return Path(named).absolute() / "log" if named else platformdirs.user_log_path("sockops-testbed")


def save_log(name: str, text: str) -> Path:
    """Writes ``text`` as the newest log called ``name`` and returns its path.

    One file a name, replaced each time, so that they do not pile up.
    """
    name = re.sub(r"[^\w.#-]", "_", name)[:100]  # a program's name can hold anything
    try:
        path = log_folder() / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{name}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
        draft.replace(path)
    except OSError:  # no home to write to: what is to be told matters more than where it is kept
        fd, temporary = tempfile.mkstemp(prefix=f"{name}-", suffix=".log")
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return Path(temporary)
    return path


def prune_logs(prefix: str, written: Collection[str]) -> None:
    """Removes the logs of that prefix but the newest `KEPT`, and those that are still ``written``."""
    others = [path for path in log_folder().glob(f"{prefix}*.log") if path.stem not in written]
    with suppress(OSError):  # another has just removed one, or this user may not
        others.sort(key=lambda path: path.stat().st_mtime)
        for path in others[:-KEPT]:
            path.unlink(missing_ok=True)
