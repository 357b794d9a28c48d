"""Program sets in the style of each era of Kmesh, compiled from ``eras/``: one source, a header an era.

They keep the contract as far as their era has the thing; names, map types, layouts, port orders,
control address and configuration are the era's.
"""

from __future__ import annotations

import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.conftest import ROOT

ERAS: tuple[str, ...] = ("v0.3", "v0.4.0", "v0.4.1", "v0.5.0", "v1.0.0", "v1.1", "main")
_OBJECTS: tuple[str, ...] = ("sockops", "cgroup_sock", "sendmsg")

_SOURCES = ROOT / "tests/eras"
_INCLUDE = (
    _SOURCES,
    _SOURCES / "include",
    ROOT / "bpf/include",
    Path(f"/usr/include/{platform.machine()}-linux-gnu"),
)


def _compile(era: str, folder: Path, name: str) -> Path:
    made = folder / f"{name}.o"
    done = subprocess.run(
        [  # noqa: S607
            "clang",
            *("-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror"),
            *(f"-I{path}" for path in _INCLUDE),
            *(f'-DERA_HEADER="{era}.h"', "-c", _SOURCES / f"{name}.c", "-o", made),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{name}.c of {era} does not compile:\n{done.stderr}"
    return made


def build_era(era: str, folder: Path) -> list[Path]:
    """Compiles the objects of an era into a folder; returns their paths: sockops, connect, sk_msg."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(_compile, era, folder), _OBJECTS))
