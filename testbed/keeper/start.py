"""Starting a keeper from a command."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from testbed.acquired import acquired
from testbed.ending import undisturbed
from testbed.errors import need_descriptors, need_memory, starting
from testbed.keeper.end import end_child
from testbed.keeper.kept import Kept
from testbed.keeper.process import be_keeper, hear, new_log, take_name, write_to
from testbed.keeper.registry import living, taken
from testbed.keeper.server import Stop, Stopped
from testbed.keeper.setup import Plan, bring_up
from testbed.kernel.syscalls import die_with_parent

_MEMORY = 64 << 20  # bytes
_DESCRIPTORS = 16  # with less, not even what a keeper says of it can be said


def start(plan: Plan) -> Any:
    """Brings a lab up in a process of its own, and returns when it is ready: what `About` is answered with.

    `UsageError` when the name is taken. Whatever keeps it from coming up is raised here, and nothing of
    it is left; so it is when this is interrupted.
    """
    if (owner := living(plan.name)) is not None:
        raise taken(owner)
    need_descriptors(_DESCRIPTORS, f"bring up the lab {plan.name}")
    need_memory(_MEMORY, f"bring up the lab {plan.name}")
    log = new_log(plan.name)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    with ExitStack() as stack:
        readable, writable = os.pipe2(os.O_CLOEXEC)
        acquired("pipe", readable)
        acquired("pipe", writable)
        stack.callback(os.close, readable)
        with undisturbed():
            with starting("the lab's keeper"):
                pid = os.fork()
            if pid == 0:
                _keep(plan, log, writable, parent)
            undo = stack.enter_context(ExitStack())
            undo.callback(end_child, pid, plan.name)
        acquired("kept process", pid)
        os.close(writable)
        heard = hear(readable, plan.name, log)
        undo.pop_all()
    return heard


def _keep(plan: Plan, log: Path, tell: int, parent: int) -> NoReturn:
    def keep(stop: Stop, stack: ExitStack) -> Kept:
        os.setsid()
        write_to(log)
        die_with_parent(signal.SIGTERM)  # until the lab is ready: then nobody needs it who asked for it
        if os.getppid() != parent:
            raise Stopped
        take_name(plan.name, plan.origin, log, stack)
        kept = stack.enter_context(bring_up(plan, log, stop.check))
        os.chdir("/")  # paths are relative until here
        die_with_parent(0)
        gc.freeze()
        return kept

    os.closerange(3, tell)
    os.closerange(tell + 1, os.sysconf("SC_OPEN_MAX"))
    be_keeper(plan.name, log, tell, keep)
