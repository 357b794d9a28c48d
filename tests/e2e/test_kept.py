"""What a run keeps beside its stories: the packets of several as one file, and what was in the maps."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from testbed.capsule.maps import dump_maps
from testbed.kmesh.abi import Verdict
from testbed.kmesh.mesh import Mesh
from testbed.lab.pair import Pair
from tests.conftest import Run
from tests.e2e.test_replay import BROKEN_LINE, Edit


@pytest.mark.families("v4")
def test_maps_are_told_in_their_types(pair: Pair, mesh: Mesh) -> None:
    mesh.manage(pair.client)
    with pair.connect() as connection:
        mesh.verdicts[connection.tuple] = Verdict.DENY
        told = json.loads(json.dumps(dump_maps(mesh.programs.maps)))
    ((key, value),) = told["km_auth_res"]["entries"]
    assert (key["ipv4"]["sport"], value) == (connection.tuple.sport, 1)
    assert (told["km_auth_res"]["type"], told["km_auth_res"]["value_size"]) == ("hash", 4)
    assert not any("error" in each for each in told.values()), told
    assert all("entries" not in each for each in told.values() if each["type"] in {"ringbuf", "sk_storage"})


@pytest.mark.long
def test_the_packets_of_several_stories_are_one_file(
    testbed_command: Run, edited_checkout: Edit, tmp_path: Path
) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark reads it, and is not there")
    root = edited_checkout(*BROKEN_LINE)
    state = {"TESTBED_STATE": str(tmp_path / "state")}
    testbed_command("check", "-k", "exactly_four", "--family", "v4,v6", cwd=root, env=state)
    file = tmp_path / "both.pcapng"
    done = testbed_command("story", "last", "--pcapng", str(file), env=state)
    assert "the packets of 2 of 2 stories" in done.stdout, done.stderr
    words = ["tshark", "-r", str(file), "-T", "fields", "-e", "ip.version", "-e", "ipv6.version"]
    seen = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert set(seen) == {"4", "6"}
    assert len(seen) > 10
