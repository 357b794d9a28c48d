"""Nothing of the machine that a capsule was made on is in it, and what was taken out is missed by nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from testbed.capsule.collect import current_sources
from testbed.capsule.contents import read_capsule
from testbed.capsule.debug_paths import without_paths
from tests.conftest import ROOT
from tests.e2e.test_replay import built

MAKE = """
import sys
from pathlib import Path

import pytest
from testbed.capsule.collect import write_capsule
from testbed.capsule.machine import KernelMessages
from tests.e2e.test_replay import built, broken_sources, material
from dataclasses import replace

folder = Path(sys.argv[1])
made = material(objects=built(folder, broken_sources()))
told = replace(made.story, message=f"{folder}/test_x.py:3: of secret-user at build-host-7")
info = replace(made.info, arguments=("testbed", "check", "--object", str(folder / "x.o")))
print(write_capsule(folder, replace(made, story=told, info=info, kernel_log=KernelMessages().lines())))
"""
SECRETS = ("secret-user", "hunter2", "build-host-7", "SECRET_TOKEN")


@pytest.mark.long
def test_nothing_of_the_host_is_in_it(tmp_path: Path) -> None:
    home = tmp_path / "home" / "secret-user"
    home.mkdir(parents=True)
    (tmp_path / "make.py").write_text(MAKE)
    words = ["unshare", "--uts", "sh", "-c", 'hostname build-host-7 && exec "$@"', "sh"]
    done = subprocess.run(
        [*words, sys.executable, tmp_path / "make.py", home],
        env={
            **os.environ,
            "HOME": str(home),
            "USER": "secret-user",
            "SECRET_TOKEN": "hunter2",
            "PYTHONPATH": str(ROOT),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    with zipfile.ZipFile(done.stdout.strip()) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            for secret in (*SECRETS, str(tmp_path)):
                assert secret.encode() not in data, f"{secret} is in {name}"
    assert read_capsule(Path(done.stdout.strip())).story.message == "test_x.py:3: of USER at HOST"


def test_objects_work_as_before_without_their_paths(tmp_path: Path) -> None:
    """What is blotted out is read by nobody: the code and its types are the same bytes."""
    objects = built(tmp_path, current_sources())
    for name, data in objects:
        clean = without_paths(data)
        assert str(tmp_path).encode() in data
        assert str(tmp_path).encode() not in clean, name
        assert len(clean) == len(data)
        changed = sum(one != other for one, other in zip(data, clean, strict=True))
        assert changed < 40 * len(str(tmp_path)), "more than paths was changed"
