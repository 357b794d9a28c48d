"""One set of sources, two loaders: not only the verdicts agree, but all that happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [
        ("observe.h", "record->protocol = PROTOCOL_TCP;", "", "records"),
        ("authorize.h", "&request->tuple, PORTS_HOST", "&request->tuple, PORTS_NETWORK", "requests"),
        ("authorize.h", "verdict_remove(&tuple);", "", "verdicts left"),
    ],
)
def test_a_story_tells_what_another_program_does(
    testbed_command: Run, tmp_path: Path, edited_checkout: Any, file: str, old: str, new: str, part: str
) -> None:
    """In scenarios that pass all the same: they look at something else."""
    select = ("-k", "half_close", "--family", "v4")
    before = stories(testbed_command, tmp_path / "before.json", *select)
    root = edited_checkout(f"include/{file}", old, new)
    done = testbed_command("check", "--stories", str(tmp_path / "after.json"), *select, cwd=root)
    after = json.loads((tmp_path / "after.json").read_text(encoding="utf-8"))
    assert set(before) == set(after), done.stderr
    differing = {each for name in before for each in before[name] if before[name][each] != after[name][each]}
    assert part in differing
