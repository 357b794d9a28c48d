"""What every program of an exploration stands on, and what is kept of those that were run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from testbed.bpf.program_set import ProgramSet
from testbed.kmesh.abi import Absent
from testbed.kmesh.explore.play import Play
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.profile import Profile
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.observe.tap import TapProgram
from testbed.topology.load import load_topology
from testbed.topology.model import Topology

TOPOLOGY = "triangle"
EXEMPTING: tuple[Literal["node_ip", "pod_gateway"], ...] = ("node_ip", "pod_gateway")


@dataclass(frozen=True)
class Step:
    """One act of a `Play`: its name, and what it was given."""

    act: str
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        words = [_literal(each) for each in self.arguments]
        words += [f"{name}={_literal(value)}" for name, value in self.keywords]
        return f"play.{self.act}({', '.join(words)})"

    def play(self, play: Play) -> None:
        getattr(play, self.act)(*self.arguments, **dict(self.keywords))


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


@dataclass(frozen=True)
class Failure:
    """A program that failed, and how. ``is_steady`` is False when it did not fail each time."""

    steps: tuple[Step, ...]
    error: Exception
    is_steady: bool = True


class Stopped(KeyboardInterrupt):
    """No program is to follow: the time is over, or something else than the set under test is at fault.

    Of any other exception Hypothesis would ask which shorter program raises it too.
    """


@dataclass
class Journal:
    """What has been run so far, and the failure seen last.

    Nothing new is begun once ``end``, of time.monotonic(), is over; a failure is shrunk all the same.
    """

    programs: int = 0
    steps: int = 0
    connections: int = 0
    failure: Failure | None = None
    end: float = math.inf
    on_program: Callable[[], None] = field(default=lambda: None)

    def __str__(self) -> str:
        return f"{self.programs} programs, {self.steps} steps, {self.connections} connections"

    def forget(self) -> None:
        """What failed before is of no interest any more."""
        self.failure = None

    def begin(self) -> None:
        """A program is about to begin. `Stopped`."""
        if self.failure is None and time.monotonic() >= self.end:
            raise Stopped

    def ran(self, steps: int, connections: int) -> None:
        self.programs += 1
        self.steps += steps
        self.connections += connections
        self.on_program()


@dataclass(frozen=True)
class Abilities:
    """Which acts there are: what era and set have, decided before the first program."""

    families: tuple[str, ...]
    enrolling: tuple[str, ...]
    waypoint: bool
    monitoring: bool
    verdicts: bool
    exempting: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """The set under test, and what a lab of its own is made of for each program."""

    bench: Bench
    tap_program: TapProgram
    program_set: ProgramSet
    profile: Profile
    abilities: Abilities
    topology: Topology
    journal: Journal

    def play(self, undo: ExitStack) -> Play:
        """A play in a lab of its own, with the set at work; ``undo`` takes all of it down."""
        lab = undo.enter_context(Lab(self.bench, self.topology))
        tap = undo.enter_context(self.tap_program.tap(lab))
        return Play(lab, undo.enter_context(Mesh(self.program_set, lab, self.profile)), tap)


def set_stage(
    bench: Bench,
    tap_program: TapProgram,
    program_set: ProgramSet,
    profile: Profile,
    families: Sequence[Family] = tuple(Family),
    journal: Journal | None = None,
) -> Stage:
    """A stage for explorations in these families. `Absent` when the era has none of them."""
    topology = load_topology(TOPOLOGY)
    with Lab(bench, topology) as lab, Mesh(program_set, lab, profile) as mesh:
        abilities = _abilities(mesh, families)
    return Stage(bench, tap_program, program_set, profile, abilities, topology, journal or Journal())


def _abilities(mesh: Mesh, families: Sequence[Family]) -> Abilities:
    lacks = mesh.profile.lacks
    chosen = [family for family in families if family is not Family.V6 or "ipv6" not in lacks]
    if not chosen:
        mesh.profile.require("ipv6")
    # to the control address a mapped client connects as one of IPv4 does
    enrolling = [family for family in chosen if family is not Family.MAPPED_CLIENT] or [Family.V4]
    return Abilities(
        families=tuple(family.value for family in chosen),
        enrolling=tuple(family.value for family in enrolling),
        waypoint="waypoint" not in lacks and _has(mesh, "storage") and _has(mesh, "sockhash"),
        monitoring="monitoring" not in lacks,
        verdicts=_has(mesh, "verdicts"),
        exempting=tuple(name for name in EXEMPTING if name not in lacks),
    )


def _has(mesh: Mesh, name: str) -> bool:
    """Whether era and set have it: `Absent` says it when it is asked for."""
    with suppress(Absent):
        return getattr(mesh, name) is not None
    return False
