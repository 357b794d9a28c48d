"""The rules of the house: who imports whom, how large a room may be, where Kmesh's names stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "testbed"
MODULES = sorted(PACKAGE.rglob("*.py"))
ALL_PYTHON = [
    path for folder in ("testbed", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]

# A room may import from floors below its own.
FLOORS = {
    "errors": -1,
    "acquired": -1,
    "logs": 0,
    "visible": 0,
    "owner_mark": 0,
    "ending": -1,
    "data": 0,
    "scratch": 0,
    "closing": 0,
    "deadlines": 0,
    "__init__": 0,
    "kernel": 1,
    "bpf": 1,
    "kernels": 1,
    "topology": 2,
    "bill": 2,
    "guest": 2,
    "lab": 3,
    "graph": 3,
    "observe": 4,
    "gates": 4,
    "kmesh": 5,
    "runs": 5,
    "report": 6,
    "keeper": 7,
    "pytest_plugin": 8,
    "pytest_objects": 8,
    "pytest_record": 8,
    "pytest_lab": 8,
    "pytest_bill": 8,
    "capsule": 7,
    "check": 9,
    "doctor": 9,
    "mutants": 10,
    "pressure": 10,
    "cost": 10,
    "matrix": 10,
    "commands": 11,
    "cli": 12,
    "__main__": 13,
}
SLEEP = re.compile(r"\btime\.sleep\(")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[str]:
    """The rooms that a module imports from, also within functions; not for type checkers alone."""
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("testbed."):
            yield node.module.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    here = room(path)
    for there in imports(ast.parse(path.read_text(encoding="utf-8"))):
        assert there == here or FLOORS[there] < FLOORS[here], f"{here} imports from {there}"


@pytest.mark.parametrize("path", ALL_PYTHON, ids=name_of)
def test_rooms_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 310
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno <= 60, node.name


@pytest.mark.parametrize("path", ALL_PYTHON, ids=name_of)
def test_nobody_sleeps(path: Path) -> None:
    if path != Path(__file__):
        assert not SLEEP.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) != "kmesh"], ids=name_of)
def test_kmesh_names_stand_in_their_room(path: Path) -> None:
    assert not re.search(r"\bkm_[a-z]|map_of_|kmesh_", path.read_text(encoding="utf-8"))
