"""Capsules: what goes in comes out, nothing of the host is in them, and what is damaged is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.capsule.collect import collect, current_sources, write_capsule
from testbed.capsule.contents import capsule_of, read_capsule
from testbed.capsule.model import Material, Scenario
from testbed.capsule.replay import Request, prepare
from testbed.capsule.unpack import unpacked
from testbed.errors import UsageError
from testbed.report.session import Selection
from testbed.runs import archive
from testbed.runs.archive import pack, unpack
from testbed.runs.codec import encoded
from testbed.runs.model import info_now
from testbed.runs.reader import open_run
from tests.stories import failed

MAPS = {"verdicts": {"type": "hash", "entries": [[{"src": "10.77.0.1"}, 1]]}}


def material(**given: Any) -> Material:
    story = failed()
    scenario = Scenario(story.test, family="v4", title="a title", seed=7, tail_calls=("a:0=b",))
    made = {"packets": b"packets", "maps": MAPS, "kernel_log": ("[ 1.0] a line",), **given}
    return Material(story, made.pop("scenario", scenario), info_now(["testbed", "check"], "the set"), **made)


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    return collect(material())


@pytest.fixture(scope="module")
def whole(members: dict[str, bytes]) -> bytes:
    return pack(members)


@pytest.fixture
def file(tmp_path: Path, whole: bytes) -> Callable[[bytes], Path]:
    def write(data: bytes = whole) -> Path:
        path = tmp_path / "x.capsule.zip"
        path.write_bytes(data)
        return path

    return write


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = write_capsule(tmp_path / "new", material())
    assert path.name == "4_close.closing_deletes_the_verdict-v4.capsule.zip"
    assert write_capsule(tmp_path / "new", material()).name.endswith("-2.capsule.zip")
    found = read_capsule(path)
    assert found.story == failed()
    assert (found.scenario.nodeid, found.scenario.seed) == (failed().test, 7)
    assert found.sources == current_sources()
    assert found.foreign() == ()
    assert json.loads(found.members["maps.json"]) == MAPS
    assert found.members["packets/0001.pcapng"] == b"packets"
    assert found.members["dmesg.txt"] == b"[ 1.0] a line\n"
    assert found.kernel.release == os.uname().release
    assert {"testbed", "python", "pytest"} <= found.versions.keys()
    assert json.loads(found.members["topology.json"]) == failed().topology
    assert sorted(path.parent.iterdir()) == sorted(path.parent.glob("*.capsule.zip")), "drafts are left"


def test_the_same_content_gives_the_same_bytes(members: dict[str, bytes], whole: bytes) -> None:
    assert pack(dict(reversed(members.items()))) == whole
    with zipfile.ZipFile(io.BytesIO(whole)) as other_tools:
        assert other_tools.testzip() is None


def test_a_capsule_is_a_run_too(file: Callable[..., Path]) -> None:
    run = open_run(str(file()))
    assert ([kept.story for kept in run.kept], run.note, run.packets(1)) == ([failed()], "", b"packets")


@settings(deadline=None)
@given(data=st.data())
def test_any_damage_is_one_line(whole: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["changed", "cut", "more", "inserted"]))
    byte = bytes([data.draw(st.integers(0, 255).filter(lambda each: each != whole[at]))])
    damaged = {
        "changed": whole[:at] + byte + whole[at + 1 :],
        "cut": whole[:at],
        "more": whole + byte,
        "inserted": whole[:at] + byte + whole[at:],
    }[kind]
    with pytest.raises(UsageError) as caught:
        unpack(damaged, "it")
    assert "\n" not in str(caught.value)


def _entry(name: str, **fields: Any) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o100644 << 16
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry


def forged(*entries: tuple[zipfile.ZipInfo, bytes], manifest: Any = None, method: int = 8) -> bytes:
    """An archive that is sealed as it should be, with what should not be in it."""
    described = {
        entry.filename: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for entry, data in entries
    }
    if manifest is None:
        manifest = {"kind": archive.KIND, "format": 1, "members": described}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as to:
        for entry, data in ((_entry("manifest.json"), json.dumps(manifest).encode()), *entries):
            to.writestr(entry, data, method)
        to.comment = bytes(71)
    body = made.getvalue()[:-71]
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()


LINK = 0o120777 << 16
FORGED: list[tuple[Callable[[], bytes], str]] = [
    (lambda: forged((_entry("../../etc/passwd"), b"x")), "is no member of a capsule"),
    (lambda: forged((_entry("/etc/passwd"), b"x")), "is no member of a capsule"),
    (lambda: forged((_entry("objects/../x.o"), b"x")), "is no member of a capsule"),
    (lambda: forged((_entry("objects/.x.o"), b"x")), "is no member of a capsule"),
    (lambda: forged((_entry("objects/a/b.o"), b"x")), "is no member of a capsule"),
    (lambda: forged((_entry("sources/x.py"), b"x")), "is no member of a capsule"),
    (lambda: forged((_entry("conftest.py"), b"x")), "is no member of a capsule"),
    (lambda: forged((_entry("objects/x.o\n"), b"x")), "is no member of a capsule"),
    (lambda: forged((_entry("test.py", external_attr=LINK), b"/etc/passwd")), "is no plain file"),
    (lambda: forged((_entry("run.json"), b"0" * (2 << 20))), "is too large"),
    (lambda: forged((_entry("run.json"), b"{}"), method=zipfile.ZIP_STORED), "is no plain file"),
    (lambda: forged((_entry("run.json"), b"{}"), manifest={"kind": "other"}), "but no capsule"),
    (lambda: forged((_entry("run.json"), b"{}"), manifest=[]), "but no capsule"),
    (lambda: forged(manifest={"kind": archive.KIND, "format": 2}), "it is of format 2; this testbed reads 1"),
    (
        lambda: forged(
            (_entry("run.json"), b"{}"), manifest={"kind": archive.KIND, "format": 1, "members": {}}
        ),
        "not those that its manifest describes",
    ),
    (lambda: forged((_entry("run.json"), b"{}")), "there is no stories/0001.json in it"),
    (lambda: b"", "it is no zip archive"),
    (lambda: b"PK\3\4" + bytes(1000), "it does not end as one does"),
]


@pytest.mark.parametrize(("make", "why"), FORGED)
def test_what_is_sealed_and_wrong_is_refused(
    make: Callable[[], bytes], why: str, file: Callable[..., Path]
) -> None:
    path = file(make())
    with pytest.raises(UsageError) as caught:
        read_capsule(path)
    assert why in caught.value.why
    assert "\n" not in caught.value.why
    assert list(path.parent.iterdir()) == [path], "something was unpacked"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused() -> None:
    twice = (_entry("run.json"), b"{}")
    with pytest.raises(UsageError, match=r"it has run\.json twice"):
        unpack(forged(twice, twice), "it")


@pytest.mark.parametrize(
    "name", ["stories/0001.json", "scenario.json", "run.json", "kernel.json", "versions.json"]
)
@pytest.mark.parametrize("text", [b"", b"[]", b'{"a": 1}', b"3", b"[" * 100_000, b'{"format": 9}', b"\xff"])
def test_a_member_that_is_something_else_is_one_line(
    members: dict[str, bytes], name: str, text: bytes
) -> None:
    with pytest.raises(UsageError) as caught:
        capsule_of({**members, name: text}, "it")
    assert "\n" not in str(caught.value)
    assert "it" in str(caught.value)


def test_nothing_in_it_is_obeyed_by_a_terminal(members: dict[str, bytes]) -> None:
    story = json.loads(members["stories/0001.json"])
    story["message"] = "\x1b]0;owned\x07"
    capsule = capsule_of({**members, "stories/0001.json": json.dumps(story).encode()}, "it")
    text = "\n".join(words for line in capsule.lines() for words in line)
    assert "\x1b" not in text
    assert "\\x1b]0;owned" in text


def test_what_is_too_large_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.capsule.collect.FILE_LIMIT", 1 << 20)
    found = capsule_of(collect(material(packets=bytes(2 << 20), objects=(("no\nname", b"x"),))), "it")
    assert "packets/0001.pcapng" not in found.members
    assert any("packets/0001.pcapng: 2 MiB" in words for words in found.scenario.left_out)
    assert not found.objects


def prepared(made: Material, **options: Any) -> None:
    def nobody(_: str) -> bool:
        raise AssertionError("it asked")

    from rich.console import Console

    prepare(capsule_of(collect(made), "it"), Request(**options), Console(file=io.StringIO()), nobody)


def test_it_asks_for_objects_and_changed_sources_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())  # no terminal
    prepared(material())
    prepared(material(objects=(("a.o", b"x"),)), yes=True)
    with pytest.raises(UsageError, match=r"load a\.o of it into the kernel: there is no terminal"):
        prepared(material(objects=(("a.o", b"x"),)))
    changed = {**collect(material()), "sources/sockops.c": b"int x;"}
    assert capsule_of(changed, "it").foreign() == ("sockops.c",)


@pytest.mark.parametrize(
    ("options", "scenario", "why"),
    [
        ({"family": "v5"}, {}, "'v5' is no family"),
        ({"test": Path("x.py")}, {}, "is one of the testbed's own scenarios"),
        ({}, {"shipped": False}, "name the file of it that you trust"),
        ({"test": Path("/no/such.py")}, {"shipped": False}, "ENOENT"),
    ],
)
def test_what_cannot_be_replayed_as_asked(
    options: dict[str, Any], scenario: dict[str, Any], why: str
) -> None:
    made = material(scenario=Scenario("mine/test_x.py::test_y", **scenario), test_text="text")
    with pytest.raises(UsageError, match=re.escape(why)):
        prepared(made, **options)


@pytest.mark.parametrize(
    "line", ['#include "/etc/passwd"', "#  include </etc/passwd>", f'#include "{12 * "../"}etc/passwd"']
)
def test_sources_include_nothing_from_elsewhere(members: dict[str, bytes], line: str) -> None:
    capsule = capsule_of({**members, "sources/sockops.c": line.encode()}, "it")
    with pytest.raises(UsageError, match="a file elsewhere"), unpacked(capsule):
        pass


@pytest.mark.parametrize(
    "field", [{"family": "-pthis"}, {"abi": "-pthis"}, {"tail_calls": ["-pthis"]}, {"inner_maps": ["--x"]}]
)
def test_nothing_of_it_is_an_option(members: dict[str, bytes], field: dict[str, Any]) -> None:
    scenario = {**json.loads(members["scenario.json"]), **field}
    with pytest.raises(UsageError, match="a family or options that are none"):
        capsule_of({**members, "scenario.json": json.dumps(scenario).encode()}, "it")


def test_no_value_is_a_word_of_its_own() -> None:
    """pytest looks for ``-p NAME`` in every word that it is given"""
    words = Selection("-pthis", "-pthis", "-pthis", tail_calls=("-pthis",)).arguments()
    assert "-pthis" not in words


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("TESTBED_STATE", str(folder))
    return folder


@pytest.fixture
def no_abi_file(members: dict[str, bytes]) -> dict[str, bytes]:
    scenario = Scenario(failed().test, abi="/etc/passwd")
    return {**members, "scenario.json": encoded(scenario), "objects/a.o": b"x"}


def test_an_abi_is_an_era_or_the_capsules_own(no_abi_file: dict[str, bytes]) -> None:
    with pytest.raises(UsageError, match="is a path, and no era"), unpacked(capsule_of(no_abi_file, "it")):
        pass
    with unpacked(capsule_of({**no_abi_file, "abi.yaml": b"era: x"}, "it")) as under_test:
        folder = under_test.objects[0].parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert Path(under_test.abi).read_bytes() == b"era: x"
    assert not folder.exists()


def test_what_a_killed_replay_left_is_removed_by_the_next(state: Path) -> None:
    left = state / "unpacked" / "of-a-dead-one"
    left.mkdir(parents=True)
    (left / "sockops.o").write_bytes(b"x")
    capsule = capsule_of(collect(material(objects=(("a.o", b"x"),))), "it")
    with unpacked(capsule) as mine, unpacked(capsule) as other:
        assert not left.exists()
        assert mine.objects[0].read_bytes() == other.objects[0].read_bytes() == b"x"
        assert mine.objects[0].parent != other.objects[0].parent
    assert list((state / "unpacked").iterdir()) == []
