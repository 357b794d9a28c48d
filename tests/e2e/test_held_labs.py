"""The lab of a failed test is kept as it was, by a child of its process, and leaves nothing in the end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.keeper import protocol
from testbed.keeper.client import Client
from testbed.keeper.end import take_down
from testbed.keeper.registry import living, survey
from testbed.lab.wait import eventually
from tests.machine import belongings, picture

TEST = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and report.when == "call":
        from testbed.keeper.hold import keep_in_child

        fixtures = item.funcargs
        name = keep_in_child(fixtures["lab"], fixtures.get("mesh"), fixtures.get("tap"), item.originalname)
        report.sections.append(("kept", f"kept: {name}"))
        item.session.shouldstop = "a lab is kept"
    return report
"""
TEST = """
def {name}(pair, mesh):
    mesh.manage(pair.server)
    with pair.connect() as connection:
        connection.client.sendall(b"unread")
        assert not connection
"""


@pytest.fixture
def name() -> Iterator[str]:
    """What the test is called; its lab is taken down in the end."""
    lab = f"held-{os.getpid()}"
    yield f"test_{lab}".replace("-", "_")
    for record in survey()[0]:
        if lab in record.name:
            take_down(record)


TWO_FAILURES = ["-n", "2", "--family", "v4,v6"]


@pytest.mark.parametrize("more", [["--family", "v4"], pytest.param(TWO_FAILURES, marks=pytest.mark.long)])
def test_it_is_kept_as_it_was(tmp_path: Path, name: str, more: list[str]) -> None:
    """Of two workers' failures, the first; it is told what opens a shell in it."""
    (tmp_path / "test_it.py").write_text(TEST.format(name=name), encoding="utf-8")
    before = {each for kind in ("programs", "cgroups") for each in picture()[kind]}
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--hold-on-fail", *more]
    # Its end is heard on the pipes, which the keeper must not have.
    done = subprocess.run(
        [*words, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    (lab,) = re.findall(r"shell client --lab (\S+)", done.stdout)
    of_test = name.removeprefix("test_").replace("_", "-")
    assert [record.name for record in survey()[0] if of_test in record.name] == [lab]
    record = living(lab)
    assert record is not None
    held = belongings(record.pid)
    with Client(lab) as client:
        about = client.ask(protocol.Inspect())
        (managed,) = client.ask(protocol.Maps(name="managed"))
    assert " error" not in done.stdout.splitlines()[-1], done.stdout
    assert all(Path(f"/proc/{host['pid']}").exists() for host in about["hosts"])
    sockets = {host["name"]: host["sockets"] for host in about["hosts"]}
    assert [(sock["state"], sock["receive_queue"]) for sock in sockets["server"]] == [("ESTABLISHED", 6)]
    assert "10.77.0.2" in {item["words"] for item in managed["items"]}
    take_down(record)
    assert living(lab) is None

    def left() -> set[str]:
        there = picture()
        cgroups = {each for each in there["cgroups"] if about["cgroup"] in each}
        return cgroups | held & set().union(*there.values()) - before

    eventually(lambda: not left(), awaited=lambda: f"nothing left, but there is: {left()}", deadline=10)
