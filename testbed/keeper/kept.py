"""What a keeper has: the lab, and the programs at work in it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from testbed.bpf.kinds import Target
from testbed.bpf.program_set import Program, ProgramSet
from testbed.closing import Closing
from testbed.errors import UsageError
from testbed.keeper.words import unknown
from testbed.kmesh.mesh import Mesh
from testbed.lab.attached import Attached
from testbed.lab.bench import Bench
from testbed.lab.host import Host
from testbed.lab.lab import Lab
from testbed.observe.tap import Tap


@dataclass(frozen=True)
class Placed:
    """A set at work, ``where``: in the whole lab or on one host. A `Mesh` where it has the contract's ABI."""

    where: str
    programs: ProgramSet
    mesh: Mesh | None = None
    attached: Attached | None = None

    def is_at_work(self, program: Program) -> bool:
        """Whether it is attached: those of interfaces are left to who uses them."""
        return program.kind is not None and program.kind.target is not Target.INTERFACE


@dataclass
class Kept(Closing):
    """A lab that is kept, by whom and with what. ``undo`` takes all of it down, once."""

    name: str
    topology: str
    bench: Bench
    lab: Lab
    undo: ExitStack
    placed: list[Placed] = field(default_factory=list)
    tap: Tap | None = None
    log: str = ""
    notes: tuple[str, ...] = ()
    since: float = field(default_factory=time.time)

    @property
    def meshes(self) -> list[Mesh]:
        return [each.mesh for each in self.placed if each.mesh is not None]

    def host(self, name: str) -> Host:
        """A host by its name. `UsageError` for one that the lab does not have."""
        found = self.lab.hosts.get(name)
        if found is None:
            what = f"find the host {name}"
            raise unknown(what, f"the lab {self.name} has none of that name", name, self.lab.hosts, "hosts")
        return found

    def meshes_of(self, host: Host) -> list[Mesh]:
        """Those that are at work on a host. `UsageError` where none is."""
        found = [mesh for mesh in self.meshes if mesh.at in {None, host}]
        if not found:
            raise UsageError(
                f"manage {host.name}",
                "no program set with a map of managed addresses is at work there",
                "bring the lab up with one: --object FILE, or the reference without --program-set none",
            )
        return found

    def close(self) -> None:
        self.undo.close()
