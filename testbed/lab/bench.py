"""What all labs of a process stand on: its own cgroup, and the spawner of brokers."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path

from testbed.closing import Closing
from testbed.kernel.cgroup import CgroupRoot, cgroup_root, make_cgroup
from testbed.kernel.ownership import Reaped, owned_cgroup, reap
from testbed.kernel.spawner import Spawner


class Bench(Closing):
    """Made once a process. A context manager; closing it ends everything that stands on it."""

    def __init__(self, buckets: int = 8192) -> None:
        """``buckets``: as of `testbed.kernel.spawner.Spawner`."""
        with ExitStack() as stack:
            self.root: CgroupRoot = stack.enter_context(cgroup_root())
            self.reaped: list[Reaped] = reap(self.root, strict=False)
            self.spawner = stack.enter_context(Spawner(buckets))
            self.cgroup: Path = stack.enter_context(owned_cgroup(self.root))
            self.idle_fd = make_cgroup(self.cgroup / "idle", stack)
            """A cgroup that nobody is ever in."""
            self._undo = stack.pop_all()
        self._numbers = itertools.count(1)

    def next_lab(self) -> Path:
        """A path of its own for the cgroup of the next lab."""
        return self.cgroup / f"lab-{next(self._numbers)}"

    def close(self) -> None:
        self._undo.close()
