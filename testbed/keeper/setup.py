"""Bringing a lab up as a keeper has it: topology, programs, managed hosts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.program_set import ProgramSet
from testbed.errors import UsageError
from testbed.keeper.kept import Kept, Placed
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.profile import Profile, load_profile
from testbed.kmesh.recognise import recognise
from testbed.kmesh.reference import load_reference
from testbed.kmesh.subject import load_subject
from testbed.lab.attached import Attached
from testbed.lab.bench import Bench
from testbed.lab.lab import Lab
from testbed.topology.model import LAB, Topology


@dataclass(frozen=True)
class _Set:
    """Programs, and where: the reference where it names no objects."""

    at: str
    objects: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is to be brought up. ``origin`` is the topology's file or name, for people.

    ``programs`` says which: ``topology``, those of the topology, and where it has none the reference;
    else ``reference`` or ``none``. ``objects`` are instead of any, with the ABI profile ``abi``.
    """

    name: str
    origin: str
    topology: Topology
    objects: tuple[Path, ...] = ()
    abi: str = ""
    programs: Literal["topology", "reference", "none"] = "topology"

    def sets(self) -> Sequence[_Set]:
        """The sets, and where each belongs."""
        if self.objects:
            return [_Set(LAB, self.objects)]
        if self.programs == "none":
            return []
        if self.programs == "topology" and self.topology.programs:
            return [_Set(spec.at, tuple(self.topology.object_files(spec))) for spec in self.topology.programs]
        return [_Set(LAB)]


def bring_up(plan: Plan, log: Path, proceed: Callable[[], None]) -> Kept:
    """Makes the lab of a plan. ``proceed`` is called between steps: it raises when there is to be none."""
    with ExitStack() as stack:
        bench = stack.enter_context(Bench())
        proceed()
        lab = stack.enter_context(Lab(bench, plan.topology))
        kept = Kept(plan.name, plan.origin, bench, lab, ExitStack(), log=str(log))
        loader = stack.enter_context(ObjectLoader())
        for spec in plan.sets():
            proceed()
            placed, note = _place(spec, plan, kept, loader, stack)
            kept.placed.append(placed)
            kept.notes += note
        proceed()
        _manage(plan.topology, kept)
        kept.undo = stack.pop_all()
    return kept


def _place(
    spec: _Set, plan: Plan, kept: Kept, loader: ObjectLoader, stack: ExitStack
) -> tuple[Placed, tuple[str, ...]]:
    at = None if spec.at == LAB else kept.host(spec.at)
    notes: tuple[str, ...] = ()
    if spec.objects:
        loaded, profile, notes = _load(spec, plan, loader)
    else:
        loaded, profile = load_reference(loader), load_profile("main")
    if profile is None:
        attached = stack.enter_context(Attached(loaded, kept.lab, at=at))
        return Placed(spec.at, loaded, attached=attached), notes
    stack.enter_context(loaded)
    return Placed(spec.at, loaded, mesh=stack.enter_context(Mesh(loaded, kept.lab, profile, at=at))), notes


def _load(spec: _Set, plan: Plan, loader: ObjectLoader) -> tuple[ProgramSet, Profile | None, tuple[str, ...]]:
    """People's objects. Those that fit no era are attached as they are: there is no contract to them."""
    if not plan.abi:
        try:
            recognise(tuple(loader.open(spec.objects)))
        except UsageError as error:
            loaded = load_objects(loader, spec.objects)
            for failure in loaded.failures:
                loaded.close()
                raise failure.error() from None
            note = f"{loaded.origin}: {error.why} (--abi says which): attached as programs without a contract"
            return loaded, None, (note,)
    subject = load_subject(loader, spec.objects, plan.abi)
    rejected = tuple(
        f"{each.name} ({each.section}) is rejected: {each.reason}" for each in subject.program_set.failures
    )
    return subject.program_set, subject.profile, rejected


def _manage(topology: Topology, kept: Kept) -> None:
    """The hosts that the topology calls managed, as far as something is at work there that knows of it."""
    for name, spec in topology.hosts.items():
        if not spec.managed:
            continue
        host = kept.host(name)
        try:
            meshes = kept.meshes_of(host)
        except UsageError as error:
            kept.notes += (f"{name} is not managed: {error.why}",)
            continue
        for mesh in meshes:
            mesh.manage(host)
