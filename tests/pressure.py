"""The reference put under pressure, from objects that are built once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.kmesh.reference import build_reference
from testbed.kmesh.subject import Subject, load_subject
from testbed.pressure.result import Request, Result
from testbed.pressure.run import run_pressure
from testbed.pressure.subject import Pressed
from tests.objects import nothing_left

AUTH, OBSERVE, VERDICTS = "km_auth_req", "km_tcp_probe", "km_auth_res"
MANAGED, SOCKHASH = "km_manage", "km_socket"
ROOMY = {AUTH: 1 << 20, OBSERVE: 1 << 22}  # they hold all records of a test: none can be lost
E2BIG = "E2BIG (Argument list too long)"


@dataclass(frozen=True)
class Press:
    """Called, it makes connections: ``press(300, {AUTH: 4096}, …)``, the rest as in `Request`."""

    loader: ObjectLoader
    objects: tuple[Path, ...]

    def subject(self, sizes: dict[str, int]) -> Subject:
        """The reference with maps of these sizes."""
        return load_subject(self.loader, self.objects, "main", LoadOptions(max_entries=sizes))

    def __call__(self, connections: int, sizes: dict[str, int] | None = None, **words: object) -> Result:
        request = replace(Request(connections, max_entries=sizes or {}), **words)  # type: ignore[arg-type]
        with nothing_left(), self.subject(sizes or {}) as subject:
            return run_pressure(Pressed(subject.program_set, subject.profile, True), request)


@contextmanager
def pressing(folder: Path) -> Iterator[Press]:
    """Builds the reference into a folder."""
    with ObjectLoader() as loader:
        yield Press(loader, tuple(build_reference(folder)))
