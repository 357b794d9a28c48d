"""One set of sources, two loaders: not only the verdicts agree, but all that happened."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testbed.bpf.clang import compile_objects
from testbed.data import data_dir
from testbed.kmesh.reference import build_reference
from tests.conftest import Run

Stories = dict[str, Any]


def stories(testbed_command: Run, file: Path, *options: str) -> Stories:
    done = testbed_command("check", "--stories", str(file), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    told: Stories = json.loads(file.read_text(encoding="utf-8"))
    return told


def as_options(objects: list[Path]) -> list[str]:
    return [word for path in objects for word in ("--object", str(path))]


def test_the_whole_contract_has_the_same_stories(testbed_command: Run, tmp_path: Path) -> None:
    by_bcc = stories(testbed_command, tmp_path / "bcc.json")
    elf = as_options(build_reference(tmp_path / "o"))
    by_libbpf = stories(testbed_command, tmp_path / "elf.json", *elf)
    assert len(by_bcc) > 140
    assert set(by_bcc) == set(by_libbpf)
    assert [name for name, story in by_bcc.items() if story != by_libbpf[name]] == []


MUTANTS = [
    ("observe.h", "record->protocol = PROTOCOL_TCP;", "", "records"),
    ("authorize.h", "&request->tuple, PORTS_HOST", "&request->tuple, PORTS_NETWORK", "requests"),
    ("authorize.h", "verdict_remove(&tuple);", "", "verdicts left"),
]


@pytest.mark.parametrize(("file", "old", "new", "part"), MUTANTS, ids=lambda value: value.split(";")[0])
def test_a_story_tells_what_another_program_does(
    testbed_command: Run, tmp_path: Path, file: str, old: str, new: str, part: str
) -> None:
    """In scenarios that pass all the same: they look at something else."""
    select = ("-k", "half_close and client", "--family", "v4")
    told = []
    for name in ("before", "after"):
        bpf = tmp_path / name
        subprocess.run(["cp", "-r", data_dir("bpf"), bpf], check=True)  # noqa: S607
        text = (bpf / "include" / file).read_text(encoding="utf-8")
        assert old in text
        if name == "after":
            (bpf / "include" / file).write_text(text.replace(old, new), encoding="utf-8")
        sources = [bpf / f"{each}.c" for each in ("sockops", "connect", "sendmsg")]
        objects = compile_objects(sources, [bpf / "include"], bpf / "o")
        file_of_stories = tmp_path / f"{name}.json"
        testbed_command("check", "--stories", str(file_of_stories), *select, *as_options(objects))
        told.append(json.loads(file_of_stories.read_text(encoding="utf-8")))
    (before,), (after,) = (list(each.values()) for each in told)
    assert part in {each for each in before if before[each] != after[each]}
