"""Which testbed this is: so that workers elsewhere run the very same scenarios."""

from __future__ import annotations

import hashlib
from pathlib import Path

import testbed
from testbed.data import data_dir

_CODE = {".py", ".yaml", ".j2", ".c", ".h"}


def fingerprint() -> str:
    """Version and content of this package and of ``bpf/``: ``1.0 (3f1c…)``."""
    digest = hashlib.sha256()
    for root in (Path(testbed.__file__).parent, data_dir("bpf"), data_dir("topologies")):
        for path in sorted(root.rglob("*")):
            if path.suffix in _CODE and "_data" not in path.relative_to(root).parts:
                digest.update(f"{path.relative_to(root)}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{testbed.__version__} ({digest.hexdigest()[:12]})"
