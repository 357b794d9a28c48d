"""A second less of waiting: an unanswered SYN or SYN-ACK of a lab is repeated after a jiffy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from testbed.bpf.attach import attach
from testbed.bpf.bcc_loader import SourceSet
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.own_program import load_own
from testbed.closing import Closing
from testbed.data import data_dir
from testbed.lab.lab import Lab


def impatience_sources() -> SourceSet:
    """The sources of the program, which every kernel takes."""
    bpf = data_dir("bpf")
    programs = (("impatient", ProgramKind.SOCKOPS),)
    return SourceSet("impatient", (bpf / "impatient.c",), (bpf / "include",), programs, ())


class Impatience(Closing):
    """The program that answers BPF_SOCK_OPS_TIMEOUT_INIT, loaded once a process."""

    def __init__(self, loader: ObjectLoader) -> None:
        self._set = load_own(impatience_sources(), loader)

    @contextmanager
    def of(self, lab: Lab) -> Iterator[None]:
        """A lab's hosts are impatient within the block. It changes nothing else of their sockets.

        A connect() that nobody answers ends after about five jiffies where TCP_SYNCNT is 1.
        """
        with ExitStack() as stack:
            attach(self._set.programs["impatient"], lab.observer_fd, stack)
            yield

    def close(self) -> None:
        self._set.close()
