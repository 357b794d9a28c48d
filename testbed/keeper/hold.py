"""Keeping the lab of a test that has just failed, as it is, when the process of the test ends."""

from __future__ import annotations

import os
import re
import time
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

from testbed.acquired import acquired
from testbed.ending import undisturbed
from testbed.errors import TestbedError, starting
from testbed.keeper.end import end_child
from testbed.keeper.kept import Kept, Placed
from testbed.keeper.process import be_keeper, hear, new_log, take_name, write_to
from testbed.keeper.registry import living
from testbed.keeper.server import Stop
from testbed.kernel.cgroup import await_end
from testbed.kernel.spawner import REPLY_DEADLINE_S
from testbed.kernel.streams import let_go
from testbed.kmesh.mesh import Mesh
from testbed.lab.attached import Attached
from testbed.lab.lab import Lab
from testbed.observe.tap import Tap
from testbed.owner_mark import mark_as_own
from testbed.scratch import let_go_of_scratch
from testbed.topology.model import LAB

_LONGEST = 31  # of a name


def keep_in_child(
    lab: Lab, mesh: Mesh | None, tap: Tap | None, name: str, attached: Attached | None = None
) -> str:
    """Forks a child that keeps a lab as it is: sockets of this process, links, maps, brokers.

    Returns what the lab is called: ``name`` in the letters that a name has, with a number where that
    is taken. From then on the lab is the child's: nothing of it is undone here, whoever closes it, and
    this process is to end without making another lab of the same program set. When the child cannot
    keep it, it stays this one's, and the error is raised.
    """
    free = free_name(name)
    log = new_log(free)
    readable, writable = os.pipe2(os.O_CLOEXEC)
    acquired("pipe", readable)
    acquired("pipe", writable)
    with ExitStack() as stack:
        stack.callback(os.close, readable)
        with warnings.catch_warnings(), undisturbed():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the child has none of them
            with starting("the lab's keeper"):
                pid = os.fork()
            if pid == 0:
                _keep(lab, mesh, tap, attached, free, log, writable)
            undo = stack.enter_context(ExitStack())
            undo.callback(end_child, pid, free)
        acquired("kept process", pid)
        os.close(writable)
        hear(readable, free, log)
        undo.pop_all()
    for each in (mesh, attached, tap, lab):
        if each is not None:
            each.abandon()
    lab.bench.abandon()
    return free


def free_name(wanted: str) -> str:
    """A name of those letters that no lab has: ``close-v4``, ``close-v4-2``. None is taken by this.

    Of one that is too long the end stays, where a test has its parameters.
    """
    words = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")
    found, number = _shortened(words, _LONGEST), 1
    while living(found) is not None:
        number += 1
        found = f"{_shortened(words, _LONGEST - 5)}-{number}"
    return found


def _shortened(words: str, most: int) -> str:
    """The last of the words that are not too long together; of a single one, its end."""
    end = words[-most:]
    if len(words) > most and words[-most - 1] != "-":
        end = end.partition("-")[2] or end
    return end.lstrip("0123456789-") or LAB


def _keep(
    lab: Lab, mesh: Mesh | None, tap: Tap | None, attached: Attached | None, name: str, log: Path, tell: int
) -> NoReturn:
    def keep(_stop: Stop, stack: ExitStack) -> Kept:
        os.setsid()
        mark_as_own(lab.bench.cgroup)
        let_go(lab.bench.outside)
        let_go_of_scratch()
        write_to(log)
        take_name(name, f"{lab.topology.name} (a test's)", log, stack)
        spawner = os.pidfd_open(lab.bench.spawner.pid)
        acquired("pidfd", spawner)
        stack.callback(_await_spawner, spawner)
        kept = stack.enter_context(Kept(name, lab.topology.name, lab.bench, lab, ExitStack(), log=str(log)))
        for each in (lab.bench, lab, tap, attached, mesh):
            if each is not None:
                kept.undo.enter_context(each)
        kept.tap = tap
        kept.placed += _placed(mesh, attached)
        return kept

    be_keeper(name, log, tell, keep)


def _placed(mesh: Mesh | None, attached: Attached | None) -> list[Placed]:
    placed = []
    if mesh is not None:
        placed.append(Placed(mesh.at.name if mesh.at else LAB, mesh.programs, mesh=mesh))
    if attached is not None:
        where = attached.at.name if attached.at else LAB
        placed.append(Placed(where, attached.programs, attached=attached))
    return placed


def _await_spawner(pidfd: int) -> None:
    """It is no child of ours, so nobody else waits for it."""
    if not await_end(pidfd, time.monotonic() + REPLY_DEADLINE_S):
        raise TestbedError("end the spawner", f"it lives on {REPLY_DEADLINE_S:.0f} s after its socket closed")
    with suppress(OSError):
        os.close(pidfd)
