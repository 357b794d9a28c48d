"""What was asked of a matrix, or of a bisection, and the cells that come of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testbed.bpf.elf.file import read_object
from testbed.bpf.elf.words import parse_inner_map, parse_tail_call
from testbed.errors import UsageError
from testbed.kernels.own import is_path
from testbed.kmesh.profile import load_profile
from testbed.matrix.cell import Cell
from testbed.matrix.collection import collect
from testbed.pytest_plugin import parse_families
from testbed.report.session import Selection

_ALL_FAMILIES = "v4,v6,mapped,mapped-client"


@dataclass(frozen=True)
class Subject:
    """What is to be run on each kernel: the options that `testbed check` has too. Empty: its default."""

    objects: tuple[Path, ...] = ()
    abi: str = ""
    tail_calls: tuple[str, ...] = ()
    inner_maps: tuple[str, ...] = ()
    family: str = ""
    expression: str = ""
    modules: Path | None = None
    quick: bool = False

    @property
    def origin(self) -> str:
        """What is under test, for a person."""
        return ", ".join(path.name for path in self.objects) or "the reference in bpf/"

    @property
    def selection(self) -> Selection:
        """Which scenarios, and how; the objects are sent beside it."""
        return Selection(
            self.family,
            self.expression,
            self.abi,
            tail_calls=self.tail_calls,
            inner_maps=self.inner_maps,
            quick=self.quick,
        )

    def validate(self) -> int:
        """How many scenarios that selects. `UsageError` here, not from each guest after it has booted."""
        try:
            parse_families(self.family or _ALL_FAMILIES)
        except ValueError as error:
            raise UsageError("read --family", str(error)) from error
        names = [path.name for path in self.objects]
        if len(set(names)) < len(names):
            raise UsageError("take two objects of one name", "a guest tells them apart by it", "rename one")
        if Path(self.abi).is_file():
            raise UsageError("use a file as --abi", "guests know the eras alone")
        if self.abi:
            load_profile(self.abi)
        if (self.tail_calls or self.inner_maps) and not self.objects:
            raise UsageError(
                "use --tail-call or --inner-map", "they are about objects, and --object names none"
            )
        for path in self.objects:
            read_object(path)
        for word in self.tail_calls:
            parse_tail_call(word)
        for word in self.inner_maps:
            parse_inner_map(word)
        collect(Selection())  # kept from here on: cells, which run in threads, look both up
        return len(collect(self.selection))

    def cell(self, label: str, kernel: str) -> Cell:
        """All of it on one kernel."""
        objects = tuple((path.name, path.read_bytes()) for path in self.objects)
        modules = self.modules if is_path(kernel) else None
        return Cell(label, kernel, modules, objects, self.selection)
