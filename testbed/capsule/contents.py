"""Reads a capsule. Nothing in it is executed, nothing is written: it is values in memory.

Its texts were written by others: what a terminal would obey is made visible before anybody prints it.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.capsule.model import Kernel, Scenario
from testbed.errors import UsageError
from testbed.kmesh.reference import reference_sources
from testbed.lab.family import Family
from testbed.observe.events import Story
from testbed.report.results import short_name
from testbed.report.shown import cut, shown
from testbed.runs.codec import document, typed
from testbed.runs.model import FORMAT, RunInfo
from testbed.runs.reader import read_archive

_OBJECTS, _SOURCES = "objects/", "sources/"
_CHANGES, _WIDTH = 20, 160  # lines, and characters of one
_COMPARED = 10_000  # lines of a source: what is longer was not written by hand


@dataclass(frozen=True)
class Capsule:
    """What a capsule holds. ``sources`` are by their places in ``bpf/``, ``objects`` by file name."""

    name: str
    story: Story
    scenario: Scenario
    info: RunInfo
    kernel: Kernel
    versions: dict[str, str]
    members: dict[str, bytes]

    @property
    def objects(self) -> dict[str, bytes]:
        return self._in(_OBJECTS)

    @property
    def sources(self) -> dict[str, bytes]:
        return self._in(_SOURCES)

    @property
    def test_text(self) -> str:
        """The file of a test that is not shipped; empty otherwise."""
        return self.members.get("test.py", b"").decode(errors="replace")

    def _in(self, folder: str) -> dict[str, bytes]:
        return {
            name.removeprefix(folder): data for name, data in self.members.items() if name.startswith(folder)
        }

    def foreign(self) -> tuple[str, ...]:
        """What would be loaded into the kernel and is not this testbed's own: objects, changed sources."""
        changed = [name for name, data in self.sources.items() if data != _own(name)]
        return (*self.objects, *changed)

    def changes(self) -> list[str]:
        """From the capsule's sources to this testbed's, as a unified diff of at most 20 lines."""
        found = [line for name in sorted(self.sources) for line in _changed(name, self.sources[name])]
        more = len(found) - _CHANGES
        return found if more <= 0 else [*found[: _CHANGES - 1], f"… {more + 1} more lines"]

    def lines(self) -> Iterator[tuple[str, str]]:
        """What is in it, for a person: (heading, words)."""
        story, scenario = self.story, self.scenario
        yield "scenario", f"{short_name(scenario.nodeid)}  {scenario.title or story.title}"
        if not scenario.shipped:
            yield "", "a test of somebody's own: its file is in the capsule to be read, and is not run"
        if scenario.seed is not None:
            yield "seed", str(scenario.seed)
        yield "verdict", f"{story.verdict}: {_first_line(story.message)}" if story.message else story.verdict
        for each in story.differences[:5]:
            expected = f"expected {each.expected}, " if each.expected else ""
            yield "", f"{each.kind}: {expected}seen {each.seen}"
        names = ("testbed", "python", "libbpf")
        known = ", ".join(f"{name} {self.versions[name]}" for name in names if name in self.versions)
        yield "made by", f"Linux {self.kernel.release} {self.kernel.machine}, {known}; {self.info.started}"
        yield "tested", self.info.under_test
        for name, data in self.objects.items():
            yield "object", f"{name}  {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}"
        for name, data in self.sources.items():
            if (own := _own(name)) != data:
                state = "differs from this testbed's" if own is not None else "this testbed has none"
                yield "source", f"bpf/{name}: {state}, sha256 {hashlib.sha256(data).hexdigest()}"
        yield from self._options()
        for words in (*scenario.left_out, *story.lost):
            yield "not in it", words

    def _options(self) -> Iterator[tuple[str, str]]:
        scenario = self.scenario
        words = [f"--abi {scenario.abi}"] if scenario.abi else []
        words += [f"--tail-call {each}" for each in scenario.tail_calls]
        words += [f"--inner-map {each}" for each in scenario.inner_maps]
        if words:
            yield "options", " ".join(words)


def read_capsule(path: Path) -> Capsule:
    """The capsule in a file. `UsageError` in one line for anything else."""
    name = str(path)
    return capsule_of(read_archive(path), name)


def capsule_of(members: dict[str, bytes], name: str) -> Capsule:
    """The capsule of these members. `UsageError` where one of them is missing or is no such thing."""
    found = {
        file: _visible(document(_needed(members, file, name), f"{name}/{file}"))
        for file in ("stories/0001.json", "scenario.json", "run.json", "kernel.json", "versions.json")
    }
    info = typed(RunInfo, found["run.json"], f"{name}/run.json")
    if info.format != FORMAT:
        raise UsageError(f"read {name}", f"its run is of format {info.format}; this testbed reads {FORMAT}")
    scenario = typed(Scenario, found["scenario.json"], f"{name}/scenario.json")
    words = ((scenario.abi,), scenario.tail_calls, scenario.inner_maps)
    if scenario.family not in {"", *(family.value for family in Family)} or any(
        word.startswith("-") for several in words for word in several
    ):
        raise UsageError(f"read {name}", "its scenario has a family or options that are none")
    return Capsule(
        name=name,
        story=typed(Story, found["stories/0001.json"], f"{name}/stories/0001.json"),
        scenario=scenario,
        info=info,
        kernel=typed(Kernel, found["kernel.json"], f"{name}/kernel.json"),
        versions=typed(dict[str, str], found["versions.json"], f"{name}/versions.json"),
        members=members,
    )


def _needed(members: dict[str, bytes], file: str, name: str) -> bytes:
    if file not in members:
        raise UsageError(f"read {name}", f"there is no {file} in it")
    return members[file]


def _visible(value: Any) -> Any:
    """JSON values with nothing in their texts that a terminal would obey."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown(key): _visible(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_visible(each) for each in value]
    return value


def _own(name: str) -> bytes | None:
    """This testbed's source of that name, None where it has none."""
    path = reference_sources().sources[0].parent / name
    return path.read_bytes() if path.is_file() else None


def _changed(name: str, data: bytes) -> Iterator[str]:
    """The diff of one source. Its lines end with a line feed alone: nothing else of it is obeyed."""
    own = _own(name)
    if own == data:
        return
    theirs, ours = (text.decode(errors="replace").split("\n") for text in (data, own or b""))
    if max(len(theirs), len(ours)) > _COMPARED:
        yield f"bpf/{name}: {len(theirs)} lines, too many to compare with {len(ours)}"
        return
    files = (f"capsule/bpf/{name}", f"bpf/{name}" if own is not None else "/dev/null")
    for line in difflib.unified_diff(theirs, ours, *files, n=2, lineterm=""):
        yield cut(shown(line).replace("\r", "\\r"), _WIDTH)


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else ""
