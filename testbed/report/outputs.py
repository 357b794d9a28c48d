"""Files that a person has asked for: written whole or not at all, and never at the cost of a verdict."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from testbed.acquired import acquired
from testbed.errors import TestbedError, file_error


def need_writable(file: Path) -> None:
    """`UsageError` where a file cannot be written: before what it is for has run, and without a trace."""
    there = file.exists()
    try:
        file.open("a", encoding="utf-8").close()
    except OSError as error:
        raise file_error(f"write {file}", error) from error
    if not there:
        file.unlink()  # it was a try; what ends before it is written leaves none


def write_output(file: Path, text: str | bytes) -> None:
    """Where it cannot be written whole, what was there before stays; `file_error` says why."""
    data = text.encode(errors="backslashreplace") if isinstance(text, str) else text
    try:
        if _is_ordinary(file):
            _replace(file.resolve(), data)
        else:
            with file.open("wb") as stream:
                stream.write(data)
    except OSError as error:
        raise file_error(f"write {file}", error, where=file) from error


def add_output(file: Path, text: str) -> None:
    """Adds to a file; where that fails nothing of it is added."""
    try:
        size = file.stat().st_size if file.exists() else 0
        with file.open("ab", buffering=0) as stream, ExitStack() as undo:
            undo.callback(stream.truncate, size)
            data = text.encode(errors="backslashreplace")
            while data:
                data = data[stream.write(data) :]
            undo.pop_all()
    except OSError as error:
        raise file_error(f"write {file}", error, where=file) from error


def _is_ordinary(file: Path) -> bool:
    """Whether it can be replaced: a pipe cannot, nor what the shell has opened for us."""
    if file.absolute().parts[1:2] in {("dev",), ("proc",)}:
        return False
    return file.is_file() or not file.exists()


def _replace(file: Path, data: bytes) -> None:
    draft = file.with_name(f".{file.name[:200]}.{os.getpid()}")
    with ExitStack() as undo:
        stream = undo.enter_context(draft.open("wb"))
        undo.callback(draft.unlink, missing_ok=True)
        acquired("file", draft)
        stream.write(data)
        stream.flush()
        if file.exists():
            os.fchmod(stream.fileno(), stat.S_IMODE(file.stat().st_mode))
        draft.replace(file)


class Unwritten:
    """What could not be written while there was something more important to say: the first of it."""

    def __init__(self) -> None:
        self.first: TestbedError | None = None

    @contextmanager
    def kept_back(self) -> Iterator[None]:
        """A `TestbedError` within is kept for `tell`."""
        try:
            yield
        except TestbedError as error:
            self.first = self.first or error

    def tell(self) -> None:
        """Raises it, where there is any: when all else is said."""
        if self.first is not None:
            raise self.first


@contextmanager
def memory_file() -> Iterator[tuple[int, Path]]:
    """A file in memory, by its descriptor and a path: for who writes to a path and cannot fail there."""
    fd = os.memfd_create("output", os.MFD_CLOEXEC)
    acquired("memory", fd)
    try:
        yield fd, Path(f"/proc/{os.getpid()}/fd/{fd}")
    finally:
        os.close(fd)
