"""What the kernel counts in a network namespace (snmp counters, ``nstat``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# netstat has the TcpExt and IpExt of Linux, snmp those of the RFCs. TCP's are of both IP versions.
_FILES = ("net/snmp", "net/netstat")


def counters(pid: int) -> dict[str, int]:
    """Every counter of a process's namespace by the name that nstat gives it: ``TcpExtSyncookiesSent``.

    ``/proc/PID/net`` shows the namespace of that process, whoever reads it.
    """
    found: dict[str, int] = {}
    for file in _FILES:
        lines = (Path("/proc") / str(pid) / file).read_text(encoding="ascii").splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            group, _, words = names.partition(":")
            found.update(zip((group + word for word in words.split()), _numbers(values), strict=True))
    return found


def _numbers(line: str) -> list[int]:
    return [int(word) for word in line.partition(":")[2].split()]


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """By how much each counter that changed has grown."""
    return {name: value - before[name] for name, value in after.items() if value != before[name]}
