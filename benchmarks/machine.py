"""What the figures were measured on: the machine, how busy it was, and the versions of what took part."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import testbed

_VERSION = re.compile(r"\d+\.\d[\w.+-]*")
_VERSIONS = {
    "clang": ("clang", "--version"),
    "iproute2": ("ip", "-Version"),
    "bpftool": ("bpftool", "version"),
    "mininet": ("dpkg-query", "-W", "-f=${Version}\n", "mininet"),
}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "CPU part"}:
            return value.strip()
    return platform.machine()


def machine() -> dict[str, Any]:
    """Kernel, CPU, cores that this process may use, and the load average as it is now."""
    uname = platform.uname()
    return {
        "kernel": f"{uname.system} {uname.release} {uname.machine}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": list(os.getloadavg()),
    }


def versions(munet: str) -> dict[str, str]:
    """By name, of what is installed; ``munet`` is the Python that has it, if that was said."""
    found = {"testbed": testbed.__version__, "python": platform.python_version()}
    for name, words in _VERSIONS.items():
        if said := _version(words):
            found[name] = said
    if munet and (said := _version((munet, "-c", _MUNET))):
        found["munet"] = said
    return found


_MUNET = "import importlib.metadata as m; print(m.version('munet'))"


def _version(words: tuple[str, ...]) -> str:
    """What a command says of its version; nothing where it is not installed."""
    if shutil.which(words[0]) is None:
        return ""
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    found = _VERSION.search(done.stdout)
    return found[0] if done.returncode == 0 and found else ""


def cpu_times() -> Mapping[str, int]:
    """Of all CPUs since the start, in ticks: ``steal`` is what the hypervisor gave to others (proc(5))."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    return dict(zip(names, map(int, first), strict=False))


def steal(before: Mapping[str, int]) -> float:
    """Which part of the CPUs' time went to other machines since then."""
    grown = {name: value - before[name] for name, value in cpu_times().items()}
    total = sum(grown.values())
    return grown.get("steal", 0) / total if total else 0.0
