"""The directory that a capsule is unpacked into: this user's alone, and gone with its process."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from testbed.acquired import acquired
from testbed.runs.folder import folder_lock, is_running, runs_dir, state_error


@contextmanager
def private_folder() -> Iterator[Path]:
    """A directory that only this user can read, until the block or this process ends."""
    place = runs_dir().with_name("unpacked")
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with folder_lock(place):  # what is being made is not removed before it is locked
            reap_unpacked()
            folder = Path(mkdtemp(dir=place))
            acquired("folder", folder)
            owner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            acquired("descriptor", owner)
            fcntl.flock(owner, fcntl.LOCK_EX)
    except OSError as error:
        raise state_error(f"unpack a capsule into {place}", error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner)


def reap_unpacked() -> list[Path]:
    """Removes what replays that were killed have left; those that run keep theirs. Returns what is gone."""
    left = [each for each in runs_dir().with_name("unpacked").glob("*") if not is_running(each)]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return left
