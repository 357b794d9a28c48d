"""A loaded set of programs that share maps: one interface, whichever loader made it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from testbed.bpf import libbpf
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.maps import Map
from testbed.closing import Closing
from testbed.errors import ProgramError, command, errno_name


@dataclass(frozen=True)
class Program:
    """One loaded program. The descriptor belongs to the set."""

    name: str
    kind: ProgramKind
    fd: int


@dataclass
class ProgramSet(Closing):
    """Programs by name, maps by name, and the global variables by name as bytes.

    ``release`` gives back what the loader holds; everything is owned by descriptors, so that a
    killed process leaves nothing loaded. ``diagnostics`` is what the compiler said besides.
    """

    programs: Mapping[str, Program]
    maps: Mapping[str, Map]
    variables: MutableMapping[str, bytes]
    release: Callable[[], None]
    diagnostics: str = ""
    origin: str = ""
    in_use: bool = False  # its maps are of one lab at a time
    _closed: bool = field(default=False, repr=False)

    def of_kind(self, kind: ProgramKind) -> list[Program]:
        return [program for program in self.programs.values() if program.kind is kind]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.release()


def attach(program: Program, target_fd: int, stack: ExitStack) -> None:
    """Attaches a program to a cgroup, or an sk_msg program to a sockhash, until ``stack`` closes.

    Cgroups get a bpf_link, which a killed process leaves nothing of. A sockhash has links only
    since Linux 6.10; there the attachment ends with the map at the latest.
    """
    kind = program.kind
    try:
        if kind.on_cgroup:
            stack.callback(os.close, libbpf.link_create(program.fd, target_fd, kind.attach_type))
        else:
            libbpf.program_attach(program.fd, target_fd, kind.attach_type)
            stack.callback(libbpf.program_detach, program.fd, target_fd, kind.attach_type)
    except OSError as error:
        raise ProgramError(
            f"attach {program.name} ({kind.section})",
            errno_name(error.errno or 0),
            f"`{command('doctor')}` says what this kernel can attach",
        ) from error
