"""Long outputs (a compiler's, the verifier's) go into a file; the message names it."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import platformdirs


def save_log(name: str, text: str) -> Path:
    """Writes ``text`` as the newest log called ``name`` and returns its path.

    One file a name, replaced each time, so that they do not pile up.
    """
    name = re.sub(r"[^\w.#-]", "_", name)[:100]  # a program's name can hold anything
    try:
        path = platformdirs.user_log_path("sockops-testbed", ensure_exists=True) / f"{name}.log"
        draft = path.with_name(f".{name}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
        draft.replace(path)
    except OSError:  # no home to write to: what is to be told matters more than where it is kept
        fd, temporary = tempfile.mkstemp(prefix=f"{name}-", suffix=".log")
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return Path(temporary)
    return path
