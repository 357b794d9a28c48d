"""A run that is ended at any point of its life leaves nothing: by SIGKILL, SIGTERM, SIGINT.

The points are every acquisition and every removal (`tests.faults.countdown`). The normal run has a few of
them, ``--long`` those of every other line that is a point, ``--every-point`` all there are.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from testbed.bpf.elf.clang import compile_objects
from testbed.kernel.cgroup import CgroupRoot, cgroup_root
from tests.conftest import ROOT
from tests.faults.countdown import Point
from tests.faults.lives import Life, Nursery, Place, end_at, points

OBJECTS = ("sockops", "connect", "sendmsg")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SAMPLE = 2  # points of the normal run, for each signal
STEPS = {"check": 2, "keeper": 2, "up": 1, "tests": 8}  # of the long run: every so many of the lines
SLICES = 4
_KILLED: dict[int, tuple[int, ...]] = {signal.SIGKILL: (-signal.SIGKILL,)}
_VAGUE = 5  # a keeper that is busy with one client less has a point less: the last ones may not come
End = Callable[..., None]
PointsOf = Callable[[str], list[Point]]
_WARM = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program set with a mistake, compiled; and the kept objects of the testbed's own programs."""
    folder = tmp_path_factory.mktemp("killed")
    shutil.copytree(ROOT / "bpf", folder / "bpf")
    sockops = folder / "bpf/sockops.c"
    text = sockops.read_text(encoding="utf-8")
    assert "watch_state(skops);" in text
    sockops.write_text(text.replace("watch_state(skops);", ""), encoding="utf-8")
    sources = [folder / f"bpf/{name}.c" for name in OBJECTS]
    compile_objects(sources, [folder / "bpf/include"], folder)
    return folder


@pytest.fixture(scope="session")
def root() -> Iterator[CgroupRoot]:
    with cgroup_root() as found:
        yield found


@pytest.fixture(scope="session")
def nursery(shared: Path) -> Iterator[Nursery]:
    with Nursery(shared / "cache") as made:
        yield made


@pytest.fixture(scope="session")
def lives(shared: Path) -> dict[str, Life]:
    objects = [word for name in OBJECTS for word in ("--object", str(shared / f"{name}.o"))]
    ended: dict[int, tuple[int, ...]] = {signal.SIGTERM: (143,), signal.SIGINT: (130,), **_KILLED}
    # pytest's own code of an interrupted run; SIGTERM has its default effect until there is a bench
    told: dict[int, tuple[int, ...]] = {signal.SIGTERM: (2, -signal.SIGTERM), signal.SIGINT: (2,), **_KILLED}
    check = ("check", "--family", "v4", "-k", "server_closes_first or enrols", *objects)
    up = ("up", "pair", "--name", "life", *objects)
    file = str(ROOT / "tests/faults/scripted_life.py")
    tests = (file, "-q", "-p", "no:cacheprovider", *_WARM, "--family", "v4", *objects)
    down = (("exec", "client", "--", "true"), ("down", "life"))
    made = [
        Life("check", "testbed", check, {0: (1,), **ended}),
        Life("tests", "pytest", tests, {0: (1,), **told}),
        Life("up", "testbed", up, {0: (0,), **ended}, then=(("down", "--all"),)),
        Life("keeper", "testbed", up, {0: (0,)}, forked=True, then=down),
    ]
    return {life.name: life for life in made}


@pytest.fixture(scope="session")
def points_of(
    nursery: Nursery, lives: dict[str, Life], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[Point]]:
    @cache
    def found(name: str) -> list[Point]:
        # the first life compiles what is kept
        points(nursery, lives[name], Place(tmp_path_factory.mktemp("first") / name))
        return points(nursery, lives[name], Place(tmp_path_factory.mktemp("count") / name))

    return found


def one_of_each_line(found: list[Point]) -> list[Point]:
    """Of the points in one line, the first and the last."""
    by_line: dict[tuple[str, str], list[Point]] = {}
    for point in found:
        by_line.setdefault((point.event, point.line), []).append(point)
    kept = {point for alike in by_line.values() for point in (alike[0], alike[-1])}
    return sorted(kept, key=lambda point: point.number)


@pytest.fixture
def end(
    nursery: Nursery, lives: dict[str, Life], points_of: PointsOf, root: CgroupRoot, tmp_path: Path
) -> Callable[..., None]:
    """Ends a life at each of some points; fails with every complaint there is."""

    def run(name: str, at: list[Point], signaled: signal.Signals, times: int = 1) -> None:
        complaints = []
        for point in at:
            place = Place(tmp_path / f"{name}-{point.number}")
            ended = end_at(nursery, lives[name], place, root, point.number, signaled, times)
            if ended.point is None and point in points_of(name)[-_VAGUE:]:
                continue
            complaints += [f"{ended.point or point}: {each}" for each in ended.complaints]
            if not ended.complaints:
                shutil.rmtree(place.folder)
        assert not complaints, f"{signaled.name}:\n" + "\n".join(complaints)

    return run


@pytest.mark.parametrize("signaled", SIGNALS, ids=lambda signaled: signaled.name)
def test_some_points(points_of: PointsOf, end: End, signaled: signal.Signals) -> None:
    """Others for each signal, the same ones each time."""
    found = one_of_each_line(points_of("check"))
    first = SIGNALS.index(signaled) + 1
    step = len(found) // (SAMPLE + 1)
    end("check", found[first * 2 :: step][1 : SAMPLE + 1], signaled)


@pytest.mark.long
@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize("signaled", SIGNALS, ids=lambda signaled: signaled.name)
@pytest.mark.parametrize("name", STEPS)
def test_every_point(
    pytestconfig: pytest.Config, points_of: PointsOf, end: End, name: str, signaled: signal.Signals, part: int
) -> None:
    found = points_of(name)
    at = found if pytestconfig.getoption("--every-point") else one_of_each_line(found)[:: STEPS[name]]
    end(name, at[part::SLICES], signaled)


@pytest.mark.long
def test_there_are_enough_of_them(points_of: PointsOf) -> None:
    taken = {name: len(one_of_each_line(points_of(name))[::step]) for name, step in STEPS.items()}
    assert sum(taken.values()) >= 100, taken
    kinds = {point.what.split()[0] for point in points_of("check") if point.event == "testbed.acquired"}
    assert {"cgroup", "record", "link", "ring", "process", "namespace", "socket", "file"} <= kinds


@pytest.mark.long
@pytest.mark.parametrize("signaled", [signal.SIGTERM, signal.SIGINT], ids=lambda signaled: signaled.name)
def test_a_second_signal_while_it_ends(points_of: PointsOf, end: End, signaled: signal.Signals) -> None:
    """At the next point, which is one of the undoing."""
    end("check", one_of_each_line(points_of("check"))[::6], signaled, times=2)
