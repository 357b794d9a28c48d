"""What all labs of a process stand on: its own cgroup, and the spawner of brokers."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path

from testbed.closing import Closing
from testbed.ending import undisturbed
from testbed.kernel.cgroup import CgroupRoot, cgroup_root, make_cgroup
from testbed.kernel.ownership import Reaped, disown, own_cgroup, reap
from testbed.kernel.privileges import needing
from testbed.kernel.spawner import Spawner
from testbed.kernel.streams import streams
from testbed.owner_mark import mark_as_own
from testbed.scratch import tidy_scratch


class Bench(Closing):
    """Made once a process. A context manager; closing it ends everything that stands on it."""

    def __init__(self, buckets: int = 8192) -> None:
        """``buckets``: as of `testbed.kernel.spawner.Spawner`."""
        self.outside = streams()
        """What this process had open before there was any lab."""
        with ExitStack() as stack:
            self.root: CgroupRoot = stack.enter_context(cgroup_root())
            self.reaped: list[Reaped] = reap(self.root, strict=False)
            tidy_scratch()
            self.spawner = stack.enter_context(Spawner(buckets))
            self.cgroup: Path = own_cgroup(self.root, stack)
            with needing(f"mark the cgroup {self.cgroup.name}", "CAP_SYS_ADMIN"):
                mark_as_own(self.cgroup)
            self.idle_fd = make_cgroup(self.cgroup / "idle", stack)
            """A cgroup that nobody is ever in."""
            self._undo = stack.pop_all()
        self._numbers = itertools.count(1)

    def next_lab(self) -> Path:
        """A path of its own for the cgroup of the next lab."""
        return self.cgroup / f"lab-{next(self._numbers)}"

    def abandon(self) -> None:
        """Leaves everything to a child that was forked: nothing is undone here."""
        self._undo.pop_all()
        disown(self.cgroup)
        self.spawner.abandon()

    def close(self) -> None:
        with undisturbed():
            self._undo.close()
