"""Keeps the stories of a pytest run, and a capsule of each new way in which a test has failed.

The process that a person started begins the run's folder and ends it; xdist's workers add to it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testbed.bpf.libbpf import program_size
from testbed.bpf.program_set import ProgramSet
from testbed.capsule.collect import write_capsule
from testbed.capsule.machine import KernelMessages
from testbed.capsule.maps import dump_maps
from testbed.capsule.model import Material, Scenario
from testbed.report.about import About
from testbed.report.recording import mesh_of
from testbed.report.session import SCENARIOS
from testbed.runs.model import Program, RunInfo, Verdict, info_now
from testbed.runs.writer import Recording, RunWriter

if TYPE_CHECKING:
    from testbed.observe.events import Story

CAPSULES = "capsules"  # in a run's folder


class Keeping:
    """What is kept of a run. ``folder`` is where, once there is anything to keep, or from the start."""

    def __init__(self, config: pytest.Config, folder: Path | None = None) -> None:
        """``folder`` is that of a run which another process has begun."""
        self._config = config
        self._capsules: Path | None = config.getoption("--capsule")
        self._known: set[tuple[str, ...]] = set()
        self._messages = KernelMessages()
        self._writer: RunWriter | None = RunWriter(folder) if folder is not None else None
        self._run: Recording | None = None
        self._programs: dict[str, Program] = {}

    @property
    def folder(self) -> Path | None:
        return self._writer.folder if self._writer is not None else None

    def begin(self) -> Path:
        """Begins the folder, unless it has been; returns it."""
        if self._writer is None:
            self._run = Recording(self._info(), self._config.getoption("--run"))
            self._writer = self._run
        return self._writer.folder

    def _info(self) -> RunInfo:
        option = self._config.getoption
        chosen = {"family": str(option("--family")), "expression": str(option("-k") or "")}
        under_test = option("--under-test") or "the program set of the tests"
        asked = option("--asked-by")
        arguments = shlex.split(asked) if asked else map(str, self._config.invocation_params.args)
        return info_now([*arguments], under_test, [Path(each) for each in option("--object")], chosen)

    def test_begins(self) -> None:
        """What the kernel logs from now on is of the next test."""
        self._messages.mark()

    def note_programs(self, programs: Sequence[Program]) -> None:
        """What is known of the programs under test: of each name once."""
        self._programs.update({each.name: each for each in programs})

    @property
    def programs(self) -> tuple[Program, ...]:
        return tuple(self._programs.values())

    def keep(self, story: Story, packets: bytes | None) -> int:
        """Keeps a story; returns its number. `MachineError` where it cannot be written."""
        self.begin()
        assert self._writer is not None, "begun"
        return self._writer.add(story, packets)

    def note_mesh(self, item: pytest.Item) -> None:
        """The programs at work in a test's lab are those of the run."""
        mesh = mesh_of(item)
        if mesh is not None and not self._programs:
            self.note_programs(_programs(mesh.programs))

    def encapsulate(
        self, item: pytest.Item, story: Story, packets: bytes | None, kinds: Sequence[str]
    ) -> Path | None:
        """The capsule of a story: if the test failed in a way that is new, or every one if asked for.

        Errors as of `write_capsule`.
        """
        alike = tuple(kinds) or (item.nodeid,)
        if story.verdict != "failed" or (self._capsules is None and alike in self._known):
            return None
        self._known.add(alike)
        return write_capsule(self._capsules or self.begin() / CAPSULES, self._material(item, story, packets))

    def _material(self, item: pytest.Item, story: Story, packets: bytes | None) -> Material:
        mesh, option = mesh_of(item), self._config.getoption
        shipped = SCENARIOS in item.path.parents
        abi = str(option("--abi"))
        return Material(
            story=story,
            scenario=_scenario(item, shipped, abi, option("--tail-call"), option("--inner-map")),
            info=self._info(),
            packets=packets,
            objects=tuple((Path(each).name, Path(each).read_bytes()) for each in option("--object")),
            maps=dump_maps(mesh.programs.maps) if mesh is not None else {},
            kernel_log=self._messages.lines(),
            test_text="" if shipped else item.path.read_text(encoding="utf-8", errors="replace"),
            abi_text=Path(abi).read_text(encoding="utf-8") if abi and Path(abi).is_file() else "",
        )

    def end(self, verdicts: Sequence[Verdict], *, interrupted: bool) -> Path | None:
        """The run is over. Returns its folder, None where nothing was worth keeping."""
        self._messages.close()
        if self._run is None:
            return None
        if not any(each.story is not None for each in verdicts):
            self._run.discard()
            return None
        self._run.finish(verdicts, interrupted=interrupted, programs=self.programs)
        self._run.close()
        return self._run.folder


def _programs(loaded: ProgramSet) -> list[Program]:
    """What the verifier made of each program of a set."""
    told = []
    for name, each in loaded.programs.items():
        size = program_size(each.fd)
        said = f"{size.instructions} instructions, {size.machine_code} bytes of machine code"
        said += f", the verifier processed {size.verified}" if size.verified else ""
        told.append(Program(name, each.section or (each.kind.section if each.kind else ""), True, said))
    told += [Program(each.name, each.section, False, each.reason, each.log) for each in loaded.failures]
    return told


def _scenario(
    item: pytest.Item, shipped: bool, abi: str, tail_calls: Sequence[str], inner_maps: Sequence[str]
) -> Scenario:
    spec = getattr(item, "callspec", None)
    params = spec.params if spec is not None else {}
    family = params.get("family")
    path = item.path.relative_to(SCENARIOS) if shipped else Path(item.path.name)
    _, _, rest = item.nodeid.partition("::")
    return Scenario(
        nodeid=f"{path}::{rest}",
        shipped=shipped,
        title=str(item.name),
        family=str(family.value) if family is not None else "",
        params={name: str(value) for name, value in params.items() if isinstance(value, str | int)},
        abi=abi,
        tail_calls=tuple(tail_calls),
        inner_maps=tuple(inner_maps),
    )


def verdict_of(report: pytest.TestReport, about: About, story: int | None) -> Verdict:
    """A row of the run's verdicts."""
    outcome = "error" if report.failed and report.when != "call" else str(report.outcome)
    return Verdict(
        report.nodeid,
        about.title,
        outcome,
        about.family,
        about.heading,
        about.variant,
        about.row,
        report.duration,
        "" if report.passed else report.longreprtext,
        story,
    )
