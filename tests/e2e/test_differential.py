"""One set of sources, two loaders: not only the verdicts agree, but all that happened."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testbed.bpf.elf.clang import compile_objects
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


@pytest.mark.long
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


SELECT = ("-k", "half_close and client", "--family", "v4")


def told_by(testbed_command: Run, folder: Path, file: str = "", old: str = "", new: str = "") -> Stories:
    """The story of one scenario, by the reference with one replacement in a header."""
    subprocess.run(["cp", "-r", data_dir("bpf"), folder / "bpf"], check=True)  # noqa: S607
    if file:
        header = folder / "bpf/include" / file
        text = header.read_text(encoding="utf-8")
        assert old in text
        header.write_text(text.replace(old, new), encoding="utf-8")
    sources = [folder / f"bpf/{name}.c" for name in ("sockops", "connect", "sendmsg")]
    objects = compile_objects(sources, [folder / "bpf/include"], folder)
    testbed_command("check", "--stories", str(folder / "told.json"), *SELECT, *as_options(objects))
    (story,) = json.loads((folder / "told.json").read_text(encoding="utf-8")).values()
    return dict(story)


@pytest.mark.long
def test_a_story_tells_what_another_program_does(testbed_command: Run, tmp_path: Path) -> None:
    """In a scenario that passes all the same, or fails for something else."""
    (tmp_path / "before").mkdir()
    before = told_by(testbed_command, tmp_path / "before")
    for number, (file, old, new, part) in enumerate(MUTANTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        after = told_by(testbed_command, folder, file, old, new)
        assert part in {each for each in before if before[each] != after[each]}, old
