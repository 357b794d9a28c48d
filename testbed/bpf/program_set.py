"""A loaded set of programs that share maps: one interface, whichever loader made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testbed.bpf.kinds import MapType, ProgramKind
from testbed.bpf.maps import Map
from testbed.bpf.types.layout import Type
from testbed.bpf.variables import MapVariables, TypedVariables
from testbed.closing import Closing
from testbed.errors import ProgramError
from testbed.logs import save_log


@dataclass(frozen=True)
class Program:
    """One loaded program. The descriptor belongs to the set.

    ``kind`` is None for what a lab has nothing to attach to. ``section`` is empty where it is the kind's.
    """

    name: str
    kind: ProgramKind | None
    fd: int
    section: str = ""


@dataclass(frozen=True)
class ProgramFailure:
    """A program that the kernel or libbpf did not take: why in one line, and the verifier's whole log."""

    name: str
    path: Path
    section: str
    errno: int
    reason: str
    details: str
    log: str

    def error(self) -> ProgramError:
        """It as an error, for whoever needs that program. Its log is kept in the file that it names."""
        where = save_log(f"verifier-{self.name}", self.log)
        what = f"load {self.name} ({self.section})"
        return ProgramError(what, self.reason, f"the whole log is in {where}", self.details)


@dataclass
class ProgramSet(Closing):
    """Programs by name, maps by name, and the global variables by name as bytes.

    ``failures`` are the programs that could not be loaded; the rest is usable. ``assumed``
    names maps of maps of which nobody said what is in them. ``debug_structs``
    finds C structs by name in the debug information (DWARF), where there is some. ``release`` gives
    back what the loader holds; everything is owned by descriptors, so that a killed process leaves
    nothing loaded. ``diagnostics`` is what the compiler or libbpf said besides.
    """

    programs: Mapping[str, Program]
    maps: Mapping[str, Map]
    variables: MapVariables
    release: Callable[[], None]
    diagnostics: str = ""
    origin: str = ""
    failures: tuple[ProgramFailure, ...] = ()
    assumed: tuple[str, ...] = ()
    debug_structs: Callable[[tuple[str, ...]], Mapping[str, Type]] = field(
        default=lambda _names: {}, repr=False
    )
    notes: dict[int, tuple[object, object]] = field(default_factory=dict, repr=False)
    """What its users have worked out of it, for the next time: by the id() of what it goes by, with that."""
    in_use: bool = False  # its maps are of one lab at a time
    _closed: bool = field(default=False, repr=False)

    def of_kind(self, kind: ProgramKind) -> list[Program]:
        return [program for program in self.programs.values() if program.kind is kind]

    @property
    def rings(self) -> dict[str, Map]:
        """The ring buffers by name; `testbed.bpf.libbpf.RingConsumer` reads one."""
        return {name: each for name, each in self.maps.items() if each.type == MapType.RINGBUF}

    @property
    def globals(self) -> TypedVariables:
        """The variables as Python values of their C types."""
        return TypedVariables(self.variables)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.variables.forget()
            for each in self.maps.values():
                each.forget()
            self.release()
