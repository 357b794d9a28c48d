"""What belongs to others and is there while a run goes by: it must be as it was, whatever the run does."""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.bpf import libbpf
from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.kinds import ProgramKind
from testbed.bpf.own_program import load_own
from testbed.kernel.cgroup import cgroup_root
from testbed.lab.impatience import impatience_sources
from tests.conftest import ROOT
from tests.host_bpf import Attachments, mounted

_LAB = """
import sys
from testbed.bpf.elf.loader import ObjectLoader
from testbed.lab.bench import Bench
from testbed.lab.family import Family
from testbed.lab.impatience import Impatience
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from testbed.topology.load import load_topology
with ObjectLoader() as loader, Impatience(loader) as impatience, Bench() as bench:
    with Lab(bench, load_topology("pair")) as lab, impatience.of(lab):
        print(bench.cgroup.name, flush=True)
        for _ in sys.stdin:
            with Pair(lab, Family.V4).connect():
                pass
            lab.settle()
            print("connected", flush=True)
"""


class ForeignLab:
    """Another run of the testbed, in a process of its own, with its own lock and a program at work."""

    def __init__(self, stack: ExitStack) -> None:
        self._process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _LAB],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(self._process.kill)
        assert self._process.stdout is not None
        self.name = self._process.stdout.readline().strip()

    def connects(self) -> bool:
        """Whether a connection between its hosts comes about, now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._process.stdout.readline() == "connected\n"


@dataclass(frozen=True)
class Foreign:
    """All of it. ``cgroups`` have a program attached; one is called like a run's own."""

    lab: ForeignLab
    cgroups: tuple[Path, ...]
    link_ids: tuple[str, ...]
    namespace: Path
    held_by: int
    pin: Path | None

    def state(self) -> dict[str, object]:
        """What can be seen of it: the same each time, as long as nobody touches it."""
        with Attachments() as attachments:
            attached = [*attachments.of_cgroups(map(str, self.cgroups))]
        return {
            "attached": [line for line in attached if "foreign" in line or self.cgroups[1].name in line],
            "links": set(self.link_ids) <= {str(number) for number in libbpf.object_ids("link")},
            "namespace": self.namespace.stat().st_ino,
            "held": str(Path(f"/proc/{self.held_by}/ns/net").readlink()),
            "pin": self.pin is None or self.pin.exists(),
            "members": [path.joinpath("cgroup.procs").read_text(encoding="ascii") for path in self.cgroups],
            "lab": self.lab.connects(),
        }


def _cgroup(path: Path, program_fd: int, stack: ExitStack) -> tuple[Path, str]:
    """A cgroup with a program; returns the id of the link too."""
    path.mkdir()
    stack.callback(path.rmdir)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    link = libbpf.link_create(program_fd, fd, ProgramKind.SOCKOPS.attach_type)
    stack.callback(os.close, link)
    lines = Path(f"/proc/self/fdinfo/{link}").read_text(encoding="ascii").splitlines()
    (number,) = [line.split()[1] for line in lines if line.startswith("link_id")]
    return path, number


def _named_namespace(path: Path, stack: ExitStack) -> Path:
    """As `ip netns add` makes one, without the mount that this leaves on its directory."""
    if not path.parent.exists():
        path.parent.mkdir()
        stack.callback(path.parent.rmdir)
    path.touch()
    stack.callback(path.unlink)
    subprocess.run(["unshare", f"--net={path}", "true"], check=True)  # noqa: S607
    stack.callback(subprocess.run, ["umount", str(path)], check=True)
    return path


def _holder(stack: ExitStack) -> int:
    """A process in a network namespace that has no name; it reads what never comes."""
    process = subprocess.Popen(
        ["unshare", "--net", "cat"],  # noqa: S607
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process.pid


def _pin(program_fd: int, path: Path, stack: ExitStack) -> Path:
    call = libbpf.open_library([("bpf_obj_pin", ctypes.c_int, (ctypes.c_int, ctypes.c_char_p))]).bpf_obj_pin
    libbpf.checked(call(program_fd, str(path).encode()), "BPF_OBJ_PIN")
    stack.callback(path.unlink)
    return path


@contextmanager
def foreign(loader: ObjectLoader) -> Iterator[Foreign]:
    """Makes all of it, by other means than the testbed's own, and takes it back."""
    token = secrets.token_hex(8)
    with ExitStack() as stack:
        root = stack.enter_context(cgroup_root()).path
        program = stack.enter_context(load_own(impatience_sources(), loader)).programs["impatient"]
        made = [
            _cgroup(root / name, program.fd, stack)
            for name in (f"foreign-{token}", f"sockops-testbed-{token}")
        ]
        points = mounted("bpf")
        yield Foreign(
            lab=ForeignLab(stack),
            cgroups=tuple(path for path, _ in made),
            link_ids=tuple(number for _, number in made),
            namespace=_named_namespace(Path(f"/run/netns/foreign-{token}"), stack),
            held_by=_holder(stack),
            pin=_pin(program.fd, Path(points[0], f"foreign-{token}"), stack) if points else None,
        )
