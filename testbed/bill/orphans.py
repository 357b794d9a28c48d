"""Processes that have left their parents: found by a word in the environment that all of a run's inherit."""

from __future__ import annotations

import os
from pathlib import Path

from testbed.bill.picture import Thing

VARIABLE = "TESTBED_BILL"


def mark() -> bytes:
    """Puts this process's own word into its environment, behind those of runs around it; returns it."""
    word = f"{os.getpid()}@{_stat(os.getpid())[19]}"
    words = [*os.environ.get(VARIABLE, "").split(), word]
    os.environ[VARIABLE] = " ".join(words)
    return word.encode()


def orphans(word: bytes) -> list[Thing]:
    """Processes that have it and are no descendants any more, as daemons are not. Some 2 ms."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 (a Path is slow)
    return [Thing("orphan", (pid,)) for pid in pids if _has(pid, word) and not _is_below(pid, os.getpid())]


def _has(pid: int, word: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:  # noqa: PTH123
            return word in file.read()
    except OSError:  # somebody else's, or gone
        return False


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        fields = _stat(pid)
        if not fields:
            return True  # gone meanwhile
        pid = int(fields[1])
    return False


def _stat(pid: int) -> list[str]:
    """The words behind the name (proc(5)): state, parent, …"""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return []
