"""Processes that measure when they are asked: a line to their stdin, a line from their stdout."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from testbed.errors import MachineError

HERE = Path(__file__).resolve().parent
# In namespaces of its own: what it mounts, links and names goes with it.
PRIVATE = ("unshare", "--mount", "--net", "--propagation", "private")
_END_S = 10.0


class Asked:
    """A process that is asked by a line on its stdin; it ends with ``stack``, as that closes its stdin."""

    def __init__(self, name: str, command: Sequence[str | Path], stack: ExitStack) -> None:
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        stack.callback(self._close)

    def _close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._ended()

    def answer(self) -> str:
        """The next line. `MachineError` when the process has ended instead, with its last words."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._ended()
        return line

    def number(self) -> float:
        """Asks; the answer is a number."""
        self.ask()
        return float(self.answer())

    def _ended(self) -> None:
        assert self._process.stderr is not None
        said = self._process.stderr.read().strip().splitlines()
        raise MachineError(f"measure {self._name}", said[-1] if said else "it has ended")


def compiled(name: str, folder: Path, *libraries: str) -> Path:
    """A C program of this folder, compiled with clang into another. `MachineError` where that fails."""
    target = folder / name
    command = ["clang", "-O2", "-o", str(target), str(HERE / f"{name}.c"), *libraries]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MachineError(f"compile {name}.c", "there is no clang", "apt-get install clang") from error
    if done.returncode:
        raise MachineError(f"compile {name}.c", "clang refuses it", details=done.stderr.strip())
    return target
