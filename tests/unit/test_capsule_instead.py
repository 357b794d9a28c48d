"""What a capsule's scenario is run on: its own, this checkout, other objects; and how its sources differ."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from testbed.capsule.collect import collect, current_sources
from testbed.capsule.contents import capsule_of
from testbed.capsule.unpack import Instead, UnderTest, unpacked
from testbed.errors import TestbedError, UsageError
from tests.unit.test_capsule import material, prepared


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    return collect(material())


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_STATE", str(tmp_path))
    return tmp_path


HERE, MINE = Instead(here=True), Instead(objects=(Path("/x/mine.o"),))
OBJECTS = {"objects/a.o": b"x"}
CHANGED = {"sources/sockops.c": b"int x;"}
RUNS: list[tuple[dict[str, bytes], Instead, str]] = [
    ({}, Instead(), "bpf/ of this checkout, the same as the capsule's sources"),
    ({}, HERE, "bpf/ of this checkout, the same as the capsule's sources"),
    (CHANGED, HERE, "bpf/ of this checkout"),
    (CHANGED, Instead(), r"the capsule's own sources, compiled by clang \d+\.\S+"),
    (OBJECTS, Instead(), "the capsule's own objects"),
    (OBJECTS, HERE, "bpf/ of this checkout"),
    (OBJECTS, MINE, "/x/mine.o, not what the capsule carries"),
]


@pytest.mark.parametrize(("more", "instead", "words"), RUNS)
def test_it_says_what_runs(
    members: dict[str, bytes], more: dict[str, bytes], instead: Instead, words: str
) -> None:
    own = {} if more is OBJECTS else members
    base = {name: data for name, data in members.items() if name in own or not name.startswith("sources/")}
    assert re.fullmatch(words, instead.words(capsule_of({**base, **more}, "it")))


@pytest.mark.parametrize("more", [OBJECTS, CHANGED])
@pytest.mark.parametrize("instead", [HERE, MINE])
def test_nothing_of_the_capsule_runs_instead(
    members: dict[str, bytes], more: dict[str, bytes], instead: Instead, state: Path
) -> None:
    capsule = capsule_of({**members, **more}, "it")
    assert capsule.foreign()
    assert instead.foreign(capsule) == ()
    with unpacked(capsule, instead) as under_test:
        assert under_test == UnderTest(instead.objects)
        assert not list(state.glob("unpacked/*/*")), "something of it was written"


def test_an_era_is_that_of_objects(members: dict[str, bytes]) -> None:
    """Other objects have the ABI of the capsule's, and bpf/ its own; a path is never opened."""
    capsule = capsule_of({**members, **OBJECTS, "abi.yaml": b"era: x"}, "it")
    with unpacked(capsule, MINE) as under_test:
        assert Path(under_test.abi).read_bytes() == b"era: x"
    with unpacked(capsule, HERE) as under_test:
        assert under_test.abi == ""


def test_what_runs_instead_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())  # no terminal
    foreign = material(objects=(("a.o", b"x"),))
    prepared(foreign, instead=HERE)
    with pytest.raises(UsageError, match="--here with --object"):
        prepared(foreign, instead=Instead(here=True, objects=MINE.objects))
    with pytest.raises(TestbedError, match=r"/x/mine\.o: ENOENT"):
        prepared(foreign, instead=MINE)


def test_how_its_sources_differ(members: dict[str, bytes]) -> None:
    assert capsule_of(members, "it").changes() == []
    own = current_sources()["sockops.c"]
    lines = own.split(b"\n")
    one = {
        **members,
        "sources/sockops.c": b"\n".join([*lines[:9], b"\x1b]0;owned\x07\r\x9b" * 99, *lines[9:]]),
    }
    found = capsule_of(one, "it").changes()
    assert found[:2] == ["--- capsule/bpf/sockops.c", "+++ bpf/sockops.c"]
    (line,) = [each for each in found[2:] if each.startswith("-")]
    assert line.startswith(r"-\x1b]0;owned\x07\r")
    assert len(line) <= 160
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "".join(found))
    other = {**members, "sources/sockops.c": b"int x;", "sources/none.c": b"int y;"}
    found = capsule_of(other, "it").changes()
    assert len(found) == 20
    assert re.fullmatch(r"… \d+ more lines", found[-1])
    assert found[:2] == ["--- capsule/bpf/none.c", "+++ /dev/null"]
    endless = {**members, "sources/sockops.c": b"\n" * 20_000}
    assert capsule_of(endless, "it").changes()[0].startswith("bpf/sockops.c: 20001 lines, too many")
