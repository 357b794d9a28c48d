"""Paths that come from files lead nowhere but into the file's own directory, however they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from testbed.capsule.collect import collect
from testbed.capsule.contents import Capsule, capsule_of
from testbed.capsule.unpack import Instead, unpacked
from testbed.errors import UsageError
from testbed.kernels.fetch import _target
from testbed.runs.archive import LIMITS, limit_of
from testbed.runs.reader import open_run
from testbed.topology.load import read_topology
from tests.unit.test_capsule import material

TOPOLOGY = """
name: own
hosts: {{client: {{}}, server: {{}}}}
links: [[client, server]]
programs: [{{objects: ["{path}"]}}]
"""
PARTS = ["..", ".", "sub", "out", "in", "up", "loop", "x.o", "", "...", " ", "..x", "sub/..", "~", "$HOME"]
some = settings(deadline=None)  # a machine that is loaded takes longer
PATHS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("/".join)
NAMES = st.one_of(
    st.lists(
        st.sampled_from([*PARTS, "objects", "sources", "include", "a.c", "a.h", "\0", "\\"]), max_size=5
    ).map("/".join),
    st.from_regex("|".join(pattern.pattern for pattern, _ in LIMITS)),
    st.text(max_size=30),
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """With links to within, to without, and to themselves."""
    with TemporaryDirectory() as place:
        root = Path(place).resolve() / "root"
        (root / "sub").mkdir(parents=True)
        for name, target in {"out": "/etc", "in": "sub", "up": "..", "loop": "loop"}.items():
            (root / name).symlink_to(target)
        yield root


@some
@given(path=PATHS)
def test_objects_of_a_topology_are_within_its_directory(folder: Path, path: str) -> None:
    try:
        topology = read_topology(TOPOLOGY.format(path=path), str(folder / "x.yaml"))
    except UsageError:
        return
    (file,) = topology.object_files(topology.programs[0])
    assert file.resolve().is_relative_to(folder)


@pytest.mark.parametrize("path", ["/etc/x.o", "../x.o", "sub/../../x.o", "out/x.o", "up/x.o", "loop/x.o"])
def test_what_leads_out_of_it_is_refused(folder: Path, path: str) -> None:
    with pytest.raises(UsageError, match="is not within the file's directory"):
        read_topology(TOPOLOGY.format(path=path), str(folder / "x.yaml"))


@pytest.mark.parametrize("path", ["x.o", "sub/x.o", "./sub/x.o", "in/x.o", "..x.o"])
def test_what_does_not_is_taken(folder: Path, path: str) -> None:
    assert read_topology(TOPOLOGY.format(path=path), str(folder / "x.yaml")).programs


@some
@given(name=NAMES)
def test_members_of_a_capsule_are_within_it(name: str) -> None:
    if limit_of(name) is None:
        return
    path = PurePosixPath(name)
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert not set(name) & set("\0\\\n\r")


@pytest.fixture(scope="module")
def capsule() -> Capsule:
    return capsule_of(collect(material()), "it")


@pytest.mark.parametrize("abi", ["../main", "/etc/x.yaml", "mine.yaml", "Makefile", "-x", "", "main"])
def test_the_abi_of_a_capsule_is_an_era(
    capsule: Capsule, abi: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a file, also where one of that name is in the current directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "Makefile"):
        (tmp_path / name).write_text("era: mine\n", encoding="utf-8")
    monkeypatch.setenv("TESTBED_STATE", str(tmp_path))
    changed = replace(capsule, scenario=replace(capsule.scenario, abi=abi))
    if abi in {"", "main"}:
        with unpacked(changed, Instead()) as under_test:
            assert under_test.abi == abi
    else:
        with pytest.raises(UsageError, match="is a path, and no era"), unpacked(changed, Instead()):
            pass


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    root = tmp_path / "run"
    (root / "stories").mkdir(parents=True)
    return root


@pytest.mark.parametrize("kind", ["link", "relative link", "linked folder", "pipe"])
def test_a_run_from_elsewhere_reads_nothing_else(run_folder: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "secret.json"
    outside.write_text("{}", encoding="utf-8")
    match kind:
        case "link":
            (run_folder / "run.json").symlink_to(outside)
        case "relative link":
            (run_folder / "run.json").symlink_to("../secret.json")
        case "linked folder":
            (tmp_path / "other").mkdir()
            (tmp_path / "other/run.json").write_text("{}", encoding="utf-8")
            (run_folder / "run.json").symlink_to("../other/run.json")
        case _:
            os.mkfifo(run_folder / "run.json")
    with pytest.raises(UsageError, match=r"leads out of the run's folder|no plain file"):
        open_run(str(run_folder))


@some
@given(
    name=st.lists(
        st.sampled_from(["..", ".", "/", "lib", "modules", "6.1", "kernel", "boot", "x.ko", "config"]),
        max_size=7,
    )
)
@example(["lib", "modules", "6.1", "..", "..", "..", "..", "etc", "x"])
@example(["lib", "modules", "6.1", "kernel", "..", "..", "..", "..", "..", "x.ko"])
def test_a_package_of_a_kernel_fills_its_own_directory(name: list[str]) -> None:
    entry = Path("/cache/entry")
    target = _target(PurePosixPath("/".join(name)), "6.1", entry, entry / "lib/modules/6.1")
    assert target is None or Path(os.path.normpath(target)).is_relative_to(entry)
