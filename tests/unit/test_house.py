"""The rules of the house: who imports whom, how large a room may be, where Kmesh's names stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

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
KMESH = re.compile(r"\bkm_[a-z]|map_of_|kmesh_")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[str]:
    """The rooms that a module imports from, also within functions; not for type checkers alone."""
    inner = (ast.stmt, ast.excepthandler, ast.match_case)  # where a statement can be
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("testbed."):
            yield node.module.split(".")[1]
        left += [each for each in ast.iter_child_nodes(node) if isinstance(each, inner)]


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Their names, and how many lines each has."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            yield f"{name_of(path)} {node.name}", node.end_lineno - node.lineno


def test_imports_go_down() -> None:
    upwards = [
        f"{name_of(path)} imports from {there}"
        for path in MODULES
        for there in imports(tree_of(path))
        if there != room(path) and FLOORS[there] >= FLOORS[room(path)]
    ]
    assert not upwards


def test_rooms_are_small() -> None:
    lines = {name_of(path): len(text_of(path).splitlines()) for path in ALL_PYTHON}
    assert not {name: count for name, count in lines.items() if count > 310}
    assert not {name: count for path in ALL_PYTHON for name, count in functions(path) if count > 60}


def test_nobody_sleeps() -> None:
    others = [path for path in ALL_PYTHON if path != Path(__file__)]
    assert not [name_of(path) for path in others if SLEEP.search(text_of(path))]


def test_kmesh_names_stand_in_their_room() -> None:
    others = [path for path in MODULES if room(path) != "kmesh"]
    assert not [name_of(path) for path in others if KMESH.search(text_of(path))]
