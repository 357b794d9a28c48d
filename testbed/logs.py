"""Long outputs (a compiler's, the verifier's) go into a file; the message names it."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def save_log(name: str, text: str) -> Path:
    """Writes ``text`` as the newest log called ``name`` and returns its path.

    One file a name, replaced each time, so that they do not pile up.
    """
    directory = platformdirs.user_log_path("sockops-testbed", ensure_exists=True)
    path = directory / f"{name}.log"
    draft = directory / f".{name}.{os.getpid()}"
    draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    draft.replace(path)
    return path
