"""Files of this machine that are put into a guest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from testbed.errors import UsageError, errno_name


def taken_along(paths: Sequence[Path]) -> dict[str, bytes]:
    """Files, and those in directories, by their places in the guest. `UsageError` for one that is missing."""
    taken: dict[str, bytes] = {}
    for path in paths:
        try:
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in inside:
                if file.is_file():
                    taken[f"/root/{file.relative_to(path.parent)}"] = file.read_bytes()
            if not path.exists():
                raise UsageError(f"take {path} along", "there is no such file")
        except OSError as error:
            raise UsageError(f"take {path} along", errno_name(error.errno or 0)) from error
    return taken
