"""A machine that lacks something, for one run of the testbed alone, and what that run has left."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Literal

from testbed.bpf.libbpf import object_ids
from testbed.kernel.cgroup import cgroup_root
from testbed.kernel.ownership import REGISTRY
from testbed.lab.wait import eventually
from tests.conftest import ROOT

DEADLINE_S = 120.0
_LOOK_S = 0.2
_MARK = "TESTBED_FAULT_RUN"
_OBJECT = re.compile(r"^(prog|map|link)_id:\s*(\d+)$", re.MULTILINE)
_OF_V1 = {"memory.max": "memory.limit_in_bytes"}
_WITHIN = Path(__file__).with_name("within.py")


@dataclass(frozen=True)
class Poverty:
    """What there is too little of. ``limits`` are RLIMIT_… by their names, soft and hard.

    ``tmpfs`` is (directory, mount options), ``filled`` and ``read_only`` are directories, ``unmounted`` mount
    points, ``bound`` (source, target). The run is born in the ``cgroups``.
    """

    limits: Mapping[str, int] = field(default_factory=dict)
    tmpfs: Sequence[tuple[str, str]] = ()
    filled: Sequence[str] = ()
    read_only: Sequence[str] = ()
    unmounted: Sequence[str] = ()
    cgroups: Sequence[str] = ()
    bound: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its exit code (negative: a signal), what it said, and what it left."""

    code: int
    out: str
    err: str
    seconds: float
    left: frozenset[str]

    @property
    def said(self) -> str:
        return self.out + self.err

    def told(self) -> str:
        return (
            f"exit code {self.code} after {self.seconds:.1f} s; left: {set(self.left)}\n{self.said[-6000:]}"
        )


class Place:
    """Directories of one run's own: its state, cache, temporary files, home, registry of owners."""

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        """``cache``: one that is there already."""
        self.root = root
        self.state, self.tmp, self.home = root / "state", root / "tmp", root / "home"
        self.run, self.out = root / "run", root / "out"
        self.cache = cache or root / "cache"
        for each in (self.state, self.tmp, self.home, self.run, self.out, self.cache):
            each.mkdir(parents=True, exist_ok=True)

    def spec(self, poverty: Poverty) -> str:
        """As `tests.faults.within` reads it. The registry is the place's own: what is left there is ours."""
        bound = [(str(self.run), str(REGISTRY)), *poverty.bound]
        return json.dumps(asdict(replace(poverty, bound=bound)))

    def environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in {"TESTBED_COMMAND", "PYTHONDONTWRITEBYTECODE"} and not name.startswith("XDG_")
        }
        return {
            **inherited,
            "COLUMNS": "120",
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "TESTBED_STATE": str(self.state),
            "TESTBED_CACHE": str(self.cache),
            "PYTHONFAULTHANDLER": "1",  # SIGABRT prints the stack
        }


def command_line(*words: str) -> list[str]:
    """``testbed WORDS``, by this interpreter."""
    return [sys.executable, "-m", "testbed", *words]


def poor(
    place: Place,
    poverty: Poverty,
    *words: str,
    env: Mapping[str, str] | None = None,
    out: IO[bytes] | int = subprocess.PIPE,
    cwd: Path = ROOT,
    deadline: float = DEADLINE_S,
    then: Sequence[str] = (),
) -> Ended:
    """Runs ``testbed WORDS`` so. ``then`` is run afterwards, by whom nothing is withheld: ``gc``, say."""
    mark = secrets.token_hex(8)
    REGISTRY.mkdir(mode=0o755, exist_ok=True)
    environment = {**place.environment(), **(env or {}), _MARK: mark}
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, str(_WITHIN), place.spec(poverty), *command_line(*words)],
        stdout=out,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    ) as process:
        made, output, errors = _watched(process, mark, deadline)
        if errors is None:
            raise AssertionError(_hang(process, mark, words, deadline))
    seconds = time.monotonic() - start
    if then:
        _afterwards(place, environment, then)
    left = frozenset(_left(mark, place, made))
    return Ended(
        process.returncode,
        output.decode(errors="replace"),
        errors.decode(errors="replace"),
        seconds,
        left,
    )


def _afterwards(place: Place, environment: Mapping[str, str], then: Sequence[str]) -> None:
    """A command on a machine that lacks nothing; one may find nothing to do."""
    words = [sys.executable, str(_WITHIN), place.spec(Poverty()), *command_line(*then)]
    done = subprocess.run(
        words, env=dict(environment), cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert done.returncode in {0, 2}, done.stderr.decode()


def _hang(process: subprocess.Popen[bytes], mark: str, words: Sequence[str], deadline: float) -> str:
    """Ends a run that hangs; what each of its processes waited for."""
    told = [f"testbed {' '.join(words)} was still at it after {deadline:.0f} s:"]
    told += [f"process {pid}: {_proc(pid, 'cmdline')}\n{_proc(pid, 'stack')}" for pid in _marked(mark)]
    process.send_signal(signal.SIGABRT)
    try:
        output, errors = process.communicate(timeout=10)
        told += [(each or b"").decode(errors="replace")[-6000:] for each in (output, errors)]
    except subprocess.TimeoutExpired:
        process.kill()
    for pid in _marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return "\n".join(told)


def _proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError as error:
        return str(error)


def _marked(mark: str) -> list[int]:
    """The processes of a run: whoever has its mark in the environment, zombies left out."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [number for number in numbers if f"{_MARK}={mark}" in _proc(number, "environ")]


def _watched(
    process: subprocess.Popen[bytes], mark: str, deadline: float
) -> tuple[set[str], bytes, bytes | None]:
    """The BPF objects that a run was seen to hold, and what it wrote; None for a run that hangs."""
    made: set[str] = set()
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        try:
            output, errors = process.communicate(timeout=_LOOK_S)
        except subprocess.TimeoutExpired:
            made |= {each for pid in _marked(mark) for each in _objects_of(pid)}
        else:
            return made, output or b"", errors
    return made, b"", None


def _objects_of(pid: int) -> set[str]:
    found: set[str] = set()
    with suppress(OSError):  # it has ended meanwhile
        for path in list(Path(f"/proc/{pid}/fdinfo").iterdir()):
            with suppress(OSError):
                text = path.read_text(encoding="utf-8", errors="replace")
                found |= {f"{kind} {number}" for kind, number in _OBJECT.findall(text)}
    return found


def _objects() -> set[str]:
    kinds: tuple[Literal["prog", "map", "link"], ...] = ("prog", "map", "link")
    return {f"{kind} {number}" for kind in kinds for number in object_ids(kind)}


def _left(mark: str, place: Place, made: set[str]) -> set[str]:
    """What is there of a run that has ended. What goes by itself, in the kernel's time, is waited for."""

    def lasting() -> set[str]:
        return {f"process {pid}: {_proc(pid, 'cmdline')}" for pid in _marked(mark)} | (made & _objects())

    with suppress(AssertionError):
        eventually(lambda: not lasting(), awaited="nothing left", deadline=5)
    left = lasting()
    with cgroup_root() as root:
        for record in place.run.glob("*.json"):
            left.add(f"record {record.name}")
            if (root.path / record.stem).exists():
                left.add(f"cgroup {record.stem}")
    left |= {f"lab record {path.name}" for path in (place.run / "labs").glob("*")}
    left |= {f"temporary file {path.name}" for path in place.tmp.iterdir()}
    return left


@contextmanager
def controller(name: str, settings: Mapping[str, str]) -> Iterator[str | None]:
    """A cgroup of that controller's hierarchy (v1, or v2 where it is enabled) with ``settings``; its path.

    ``memory.max`` is called otherwise in v1. None where the machine has none.
    """
    parent = _hierarchy(name)
    if parent is None:
        yield None
        return
    path = parent / f"testbed-fault-{secrets.token_hex(6)}"
    with ExitStack() as stack:
        path.mkdir()
        stack.callback(_remove, path)
        for key, value in settings.items():
            name = key if (path / key).exists() else _OF_V1[key]
            (path / name).write_text(value, encoding="ascii")
        yield str(path)


def _hierarchy(name: str) -> Path | None:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and name in options.split(","):
            return Path(where)
    with cgroup_root() as root:
        enabled = (root.path / "cgroup.subtree_control").read_text(encoding="ascii").split()
        return root.path if name in enabled else None


def _remove(path: Path) -> None:
    def gone() -> bool:
        try:
            path.rmdir()
        except OSError:
            return not path.exists()
        return True

    eventually(gone, awaited=f"{path} is empty", deadline=10)
