"""Any program set at work in a lab: for programs that have no contract here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from testbed.bpf.attach import Interface, attach
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.kinds import MapType, Target
from testbed.bpf.libbpf import RingConsumer
from testbed.bpf.maps import Map, TypedMap
from testbed.bpf.program_set import Program, ProgramSet
from testbed.bpf.types.layout import Type, Value
from testbed.bpf.variables import TypedVariables
from testbed.closing import Closing
from testbed.errors import UsageError
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.lab.strangers import need_no_strangers


class _Maps(dict[str, TypedMap]):
    def __missing__(self, name: str) -> TypedMap:
        raise UsageError(f"find the map {name}", "the set has none of that name", f"maps: {', '.join(self)}")


class Attached(Closing):
    """A loaded set attached to a lab. Cgroup programs are at work from the start.

    ``maps`` are typed by name, ``globals`` the variables. A program of a sockhash is at work from the
    start where it is the only one of its kind and the set has one sockhash or sockmap. `attach` does
    the others, and those of interfaces.
    """

    def __init__(self, program_set: ProgramSet, lab: Lab, *, at: Host | None = None) -> None:
        """``at`` is the only host whose cgroup they are attached to, by default it is the lab's."""
        self.programs = program_set
        self.lab = lab
        self.at = at
        with ExitStack() as stack:
            stack.callback(program_set.close)
            need_no_strangers(f"attach {program_set.origin}", lab)
            for program in program_set.programs.values():
                self._attach_at_once(program, stack)
            self._undo = stack.pop_all()

    def __repr__(self) -> str:
        return f"<Attached {self.programs.origin}: {', '.join(self.programs.programs)}>"

    def _sockmaps(self) -> list[Map]:
        kinds = {MapType.SOCKHASH, MapType.SOCKMAP}
        return [each for each in self.programs.maps.values() if each.type in kinds]

    def _attach_at_once(self, program: Program, stack: ExitStack) -> None:
        kind = program.kind
        if kind is None:
            return
        if kind.target is Target.CGROUP:
            attach(program, self.lab.cgroup_fd if self.at is None else self.at.cgroup_fd, stack)
        elif kind.target is Target.SOCKMAP and len(self._sockmaps()) == len(self.programs.of_kind(kind)) == 1:
            attach(program, self._sockmaps()[0].fd, stack)

    @property
    def maps(self) -> Mapping[str, TypedMap]:
        """The maps by name, as Python values. `UsageError` for a name that the set does not have."""
        return _Maps({name: each.typed for name, each in self.programs.maps.items()})

    @property
    def globals(self) -> TypedVariables:
        """The global variables by name, as Python values of their C types."""
        return self.programs.globals

    def attach(self, program: str, target: Host | str) -> None:
        """Attaches a program to a host's first interface, or to the sockhash of that name."""
        found = self.programs.programs.get(program)
        if found is None:
            raise UsageError(
                f"attach {program}", f"the set has {', '.join(self.programs.programs) or 'none'}"
            )
        if isinstance(target, Host):
            if not target.ends:
                raise UsageError(f"attach {program} to {target.name}", "it has no interface")
            end = target.ends[0]
            attach(found, Interface(target.namespace.netns_fd, end.index, end.name), self._undo)
        elif target in self.programs.maps:
            attach(found, self.programs.maps[target].fd, self._undo)
        else:
            raise UsageError(f"attach {program} to {target}", "the set has no map of that name")

    def records(self, ring: str, struct: str = "") -> list[Value]:
        """What has come into a ring buffer since the last time, each record as bytes.

        ``struct`` is the tag of the C struct that the records are, by which they are Python values;
        its layout is that of the objects' debug information. `UsageError` where that has none.
        """
        decode: Callable[[bytes], Value] = self._struct(struct).decode if struct else bytes
        if ring not in self.programs.rings:
            why = "it is no ring buffer" if ring in self.programs.maps else "the set has no map of that name"
            raise UsageError(
                f"read the ring {ring}", why, f"rings: {', '.join(self.programs.rings) or 'none'}"
            )
        taken: list[bytes] = []
        consumer = RingConsumer(self.programs.maps[ring].fd, taken.append)
        try:
            consumer.consume()
        finally:
            consumer.close()
        return [decode(data) for data in taken]

    def _struct(self, name: str) -> Type:
        found = self.programs.debug_structs((name,)).get(name)
        if found is None:
            why = "the objects have no debug information of such a struct"
            raise UsageError(
                f"read records as struct {name}", why, "compile them with -g, and do not strip them"
            )
        return found

    def abandon(self) -> None:
        """Leaves the programs attached, for a child that was forked to detach."""
        self._undo.pop_all()

    def close(self) -> None:
        """Detaches and unloads."""
        self._undo.close()


def attach_objects(loader: ObjectLoader, paths: Sequence[Path], lab: Lab, **options: Any) -> Attached:
    """Loads objects and attaches them. `ProgramError` when one of their programs is rejected."""
    try:
        chosen = LoadOptions(**options)
    except TypeError as error:
        raise UsageError("load objects", str(error).removeprefix("LoadOptions.__init__() ")) from error
    loaded = load_objects(loader, paths, chosen)
    for failure in loaded.failures:
        loaded.close()
        raise failure.error()
    return Attached(loaded, lab)
