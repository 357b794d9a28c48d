"""Objects in the style of each era: recognised, and held to the contract as far as the era has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from testbed.bpf.elf.loader import ObjectLoader
from testbed.errors import UsageError
from testbed.kmesh.abi import Absent, Direction
from testbed.kmesh.mesh import Mesh
from testbed.kmesh.profile import PROFILES, load_profile
from testbed.kmesh.recognise import recognise
from testbed.kmesh.subject import load_subject
from testbed.lab.pair import Pair
from tests.conftest import Run
from tests.e2e.test_plugin import pytest_in
from tests.eras import ERAS, build_era


class Objects(dict[str, list[Path]]):
    """sockops.o, cgroup_sock.o and sendmsg.o by era, built when they are asked for first."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory

    def __missing__(self, era: str) -> list[Path]:
        self[era] = build_era(era, self._factory.mktemp(era))
        return self[era]


@pytest.fixture(scope="session")
def era_objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory)


# At least so many of its scenarios run: the rest of them is of what the era lacks.
RUN = {"v0.3": 30, "v0.4.0": 40, "v0.4.1": 60, "v0.5.0": 60, "v1.0.0": 80, "v1.1": 110, "main": 110}


@pytest.mark.parametrize("era", ERAS)
def test_its_era_is_recognised(era_objects: Objects, object_loader: ObjectLoader, era: str) -> None:
    found = recognise(object_loader.open(era_objects[era]))
    assert found.profile.era == era
    alike = [{"main", "v1.1"}, {"v0.4.1", "v0.5.0"}]
    assert {era, *(other.era for other in found.others)} in [*alike, {era}]


@pytest.mark.parametrize("era", ERAS)
def test_the_sockops_object_alone_is_enough(
    era_objects: Objects, object_loader: ObjectLoader, era: str
) -> None:
    """What tells v1.1 from main is in the other objects: without them it is the newer one, and said."""
    found = recognise(object_loader.open(era_objects[era][:1]))
    assert found.profile.era == ("main" if era == "v1.1" else era)
    if era == "v1.1":
        assert str(found).endswith("the same names and sizes has v1.1 (--abi v1.1)")


def counts(output: str) -> dict[str, int]:
    """``{"passed": 48, "skipped": 3}`` of a check's last line."""
    words = re.findall(r"(\d+) (passed|failed|errors?|skipped)", output.splitlines()[-1])
    return {word: int(number) for number, word in words}


@pytest.mark.long
@pytest.mark.parametrize("era", ERAS)
def test_it_keeps_the_contract(era_objects: Objects, testbed_command: Run, era: str) -> None:
    options = [word for path in era_objects[era] for word in ("--object", str(path))]
    if era == "v0.5.0":
        options += ["--inner-map", "outer_map=array:4:1300:1"]
    done = testbed_command("check", "--family", "v4", *options)
    assert done.returncode == 0, done.stdout
    found = counts(done.stdout)
    assert found["passed"] >= RUN[era], done.stdout
    assert f"era       {era} (" in done.stdout
    for line in done.stdout.splitlines():
        if " skipped  " in line:  # the reason is the era's, or that of a map that it does not have
            assert "Kmesh v" in line, line


def test_the_access_log_of_v0_4_0(era_objects: Objects, object_loader: ObjectLoader, pair: Pair) -> None:
    with (
        load_subject(object_loader, era_objects["v0.4.0"]) as subject,
        Mesh(subject.program_set, pair.lab, subject.profile) as mesh,
    ):
        mesh.manage(pair.client, pair.server)
        with pair.connect() as connection:
            connection.client.sendall(b"12345")
            assert connection.server.recv(5) == b"12345"
        pair.lab.settle()
        outbound, inbound = sorted(mesh.access_log, key=lambda each: -each.direction)
        assert {outbound.tuple, inbound.tuple} == {connection.tuple}
        assert (outbound.direction, inbound.direction) == (Direction.OUTBOUND, Direction.INBOUND)
        assert outbound.conn_success
        assert inbound.received_bytes >= 5
        assert 0 < inbound.duration_ns < 2_000_000_000
        with pytest.raises(Absent, match=r"Kmesh v0\.4\.0: it keeps metrics and an access log"):
            len(mesh.observed)


@pytest.mark.long
def test_another_era_than_it_is_fails(era_objects: Objects, testbed_command: Run) -> None:
    """The order of the ports in authorization is all that tells these two apart."""
    options = [word for path in era_objects["main"] for word in ("--object", str(path))]
    done = testbed_command("check", "--family", "v4", "-k", "deletes_the_verdict", "--abi", "v1.1", *options)
    assert done.returncode == 1
    assert "1 failed" in done.stdout


@pytest.mark.long
def test_a_profile_of_ones_own(era_objects: Objects, testbed_command: Run, tmp_path: Path) -> None:
    """v1.1's interface, written down by hand, on objects that would be taken for v1.1."""
    text = (PROFILES / "v1.1.yaml").read_text(encoding="utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text(text.replace("about: Kmesh v1.1 to v1.2", "about: my own"), encoding="utf-8")
    options = [word for path in era_objects["v1.1"] for word in ("--object", str(path))]
    done = testbed_command("check", "--family", "v4", "-k", "exactly_four", "--abi", str(mine), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "era       v1.1 (my own), as asked for" in done.stdout


@pytest.mark.long
def test_pytest_says_what_was_under_test(era_objects: Objects, tmp_path: Path) -> None:
    options = [word for path in era_objects["v0.3"][:1] for word in ("--object", str(path))]
    for workers in ((), ("-n", "1")):
        done = pytest_in(tmp_path, "def test_it(mesh):\n    mesh.observed\n", "-rs", *options, *workers)
        assert "1 skipped" in done.stdout, done.stdout
        assert "Kmesh v0.3.x: it reports no connections" in done.stdout
        assert f"object    {era_objects['v0.3'][0]}: record_tuple" in done.stdout
        assert "era       v0.3 (Kmesh v0.3.x)" in done.stdout
    done = pytest_in(tmp_path, "", "--object", "nowhere.o")
    assert "--object nowhere.o: there is no such file" in done.stderr


def test_the_nearest_era_is_named(era_objects: Objects, object_loader: ObjectLoader) -> None:
    """v1.0.0's storage with v1.1's maps: no era has both."""
    objects = object_loader.open(era_objects["v1.0.0"])
    profiles = [load_profile(era) for era in ("v0.5.0", "v1.1")]
    with pytest.raises(UsageError) as caught:
        recognise(objects, profiles)
    lines = caught.value.details.splitlines()
    assert lines[0] == "nearest is v1.1 (Kmesh v1.1 to v1.2); looked for, and found:"
    assert "NO  map km_sockstorage (value 64 bytes): key 4 bytes, value 16 bytes" in lines
    assert "yes map km_manage (key 16 bytes, value 4 bytes)" in lines
