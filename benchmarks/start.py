"""Section `start`: how long Python takes to import the testbed, and which modules that time goes to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from benchmarks.measure import ROOT, Contender, Limit, Options, Prepared, Row, Section, Taken, Target, clocked

ROWS = (
    Row("start.python", "python -c pass", "ms", short="Python"),
    Row("start.import", "import testbed", "ms", "start.python"),
    Row("start.help", "testbed --help", "ms", "start.python", Target("median", at_most=150)),
    Row("start.lab", "import testbed.lab.lab", "ms", "start.python"),
    Row("start.plugin", "import pytest", "ms", "start.python", short="pytest"),
    Row("start.plugins", "import the plugins for pytest", "ms", "start.plugin"),
)
_WORST = 6
_PLUGINS = "testbed.pytest_plugin, testbed.pytest_lab, testbed.pytest_objects, testbed.pytest_record"
COMMANDS = {
    "start.python": ("-c", "pass"),
    "start.import": ("-c", "import testbed"),
    "start.help": ("-m", "testbed", "--help"),
    "start.lab": ("-c", "import testbed.lab.lab"),
    "start.plugin": ("-c", "import pytest"),
    "start.plugins": ("-c", f"import {_PLUGINS}"),
}


class Import(NamedTuple):
    """A line of ``-X importtime``: microseconds of the module itself, and with all that it imports."""

    own: int
    whole: int
    depth: int
    name: str


def process(words: Sequence[str]) -> list[float]:
    """How long a process takes from its start to its end, in milliseconds."""
    times: list[float] = []
    with clocked(times):
        subprocess.run(
            [sys.executable, *words],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
    return times


def parse_importtime(text: str) -> list[Import]:
    """The lines of ``python -X importtime``, in the order in which the imports ended."""
    found = []
    for line in text.splitlines():
        head, _, rest = line.partition("import time:")
        columns = rest.split("|")
        if head.strip() or len(columns) != 3 or not columns[0].strip().isdecimal():
            continue
        name = columns[2].rstrip()[1:]
        depth = (len(name) - len(name.lstrip())) // 2
        found.append(Import(int(columns[0]), int(columns[1]), depth, name.strip()))
    return found


def worst(text: str, count: int = _WORST) -> list[str]:
    """A line each: the modules whose own time is the longest, and the packages whose whole time is."""
    imports = parse_importtime(text)
    own = sorted(imports, key=lambda each: -each.own)[:count]
    tops = [each for each in imports if "." not in each.name]
    whole = sorted(tops, key=lambda each: -each.whole)[:count]
    return [
        "longest by themselves: " + ", ".join(f"{each.name} {each.own / 1e3:.1f} ms" for each in own),
        "with what they import: " + ", ".join(f"{each.name} {each.whole / 1e3:.1f} ms" for each in whole),
    ]


def _notes() -> list[str]:
    command = [sys.executable, "-X", "importtime", *COMMANDS["start.help"]]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return [f"--help, {line}" for line in worst(done.stderr)]


def prepare(_options: Options, _stack: ExitStack) -> Prepared:
    return Prepared([Contender(key, partial(_process, key)) for key in COMMANDS], notes=_notes)


def _process(key: str) -> Taken:
    return {key: process(COMMANDS[key])}


SECTIONS = (
    Section(
        "start",
        "Python and its imports, a process from its start to its end",
        ROWS,
        prepare,
        quick=Limit(6, 2, warm_up=1),
        whole=Limit(40, 30),
    ),
)
