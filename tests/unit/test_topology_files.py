"""Files of topologies: where each mistake is, and what no file can do."""

from __future__ import annotations

import re
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from testbed.errors import UsageError
from testbed.topology.load import TopologyError, load_topology, read_topology, shipped
from testbed.topology.model import EndSpec, HostSpec, ImpairSpec, LinkSpec, ProgramsSpec, Topology
from testbed.topology.schema import json_schema
from tests.conftest import ROOT

TWO = "name: x\nhosts: {client: {}, server: {}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: x\nhosts:\n  a: {gatway: b}",
            "x.yaml:3:7: hosts.a.gatway: there is no such field; did you mean gateway?",
        ),
        ("name: x\nhosts: {a: {role: clint}}", "x.yaml:2:19: hosts.a.role: expected client, server"),
        ("name: x\nhosts: {a: {role: clint}}", "got 'clint'; did you mean client?"),
        (TWO + "links:\n - [client, sever]", "x.yaml:4:13: links[0][1]: there is no host sever; did you"),
        (
            TWO + "links:\n - [{host: client, adresses: []}, server]",
            "x.yaml:4:20: links[0][0].adresses: there is no such field; did you mean addresses?",
        ),
        (
            TWO + "links:\n - ends:\n   - client\n   - {host: server, addresses: [10.0.0.300/24]}",
            "x.yaml:6:33: links[0].ends[1].addresses[0]: expected an address with prefix length",
        ),
        (TWO + "links: [[{addresses: []}, server]]", "x.yaml:3:10: links[0][0].host: is missing"),
        (TWO + "links: [[client]]", "x.yaml:3:9: links[0]: expected two ends, got 1"),
        (TWO + "name: y", "x.yaml:3:1: name: name is given twice, first in line 1"),
        ("hosts: {}", "x.yaml:1:1: name: is missing"),
        ("name: on\nhosts: {}", "got True; YAML reads it as no text: put it in quotes"),
        ("name: x\nhosts:\n  a: 1", "x.yaml:3:6: hosts.a: expected a mapping (role, gateway"),
        ("name: x\nhosts:\n  A: {}", "x.yaml:3:3: hosts.A: expected a name"),
        ("name: x\nhosts: {a: {sysctls: {tcp_rmem: 1}}}", "did you mean net.ipv4.tcp_rmem?"),
        (
            TWO + "links: [{ends: [client, server], impair: {dely: 1ms}}]",
            "x.yaml:3:43: links[0].impair.dely: there is no such field; did you mean delay?",
        ),
        (TWO + "programs: [{objects: [../x.o]}]", "x.yaml:3:23: programs[0].objects[0]: ../x.o is not"),
        (TWO + "programs: [{objects: [/x.o]}]", "/x.o is not within the file's directory"),
        (TWO + "programs: [{objects: [link/x.o]}]", "link/x.o is not within the file's directory"),
        ("- 1", "x.yaml:1:1: expected a mapping (name, hosts, links, programs), got a list"),
        ("", "x.yaml:1:1: it is empty"),
        ("# nothing\n", "x.yaml:1:1: it is empty"),
        ("name: x\nhosts: {a: {]", "x.yaml:2:13: this is no YAML"),
        ("name: x\nhosts: \0", "x.yaml:2:8: this is no YAML"),
        ("name: x\n--- \nname: y", "x.yaml:2:1: a second document begins"),
        ("name: !!python/object/apply:os.system [x]\nhosts: {}", "x.yaml:1:7: name: the tag tag:yaml.org"),
        ("name: !!int x\nhosts: {}", "'x' is no int"),
        ("a: &a [*a]", "x.yaml:1:8: the alias *a stands within itself"),
        ("a: *b", "the alias *b is nowhere defined"),
        ("[" * 5000, "more than 40 levels deep"),
        ("{? [a] : b}", "expected a name as the key"),
    ],
)  # fmt: skip
def test_mistakes_are_found(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "link").symlink_to("/")
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_topology(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_all_mistakes_at_once_in_the_files_order() -> None:
    text = "hosts:\n  a: {gatway: b}\n  a: {}\n  b: {role: x}\nlinks: [[a, c], 7]\nnane: x\n"
    with pytest.raises(TopologyError) as caught:
        read_topology(text)
    assert [(each.line, each.path) for each in caught.value.mistakes] == [
        (1, "name"),
        (2, "hosts.a.gatway"),
        (3, "hosts.a"),
        (4, "hosts.b.role"),
        (5, "links[0][1]"),
        (5, "links[1]"),
        (6, "nane"),
    ]


def bomb(merge: str) -> str:
    lines = ["a: &a {x: [1, 2, 3, 4, 5, 6, 7, 8, 9]}"]
    for one, other in zip("abcdefghijk", "bcdefghijkl", strict=True):
        lines.append(f"{other}: &{other} {{{merge}: [{', '.join(['*' + one] * 9)}]}}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x7fELF\x02\xff", "1:6: this is no text in UTF-8: byte 0xff"),
        (b"a" * (1 << 21), "larger than 1 MiB"),
        (bomb("y").encode(), "more than 200000 values"),
        (bomb("<<").encode(), "more than 200000 values"),
        (b"[\n" * 500_000, "more than 40 levels deep"),
        (b"name: x\nhosts: {}\nlinks: " + b"9" * 5000, "is no int"),
    ],
    ids=("binary", "large", "bomb", "merging bomb", "deep", "number"),
)
def test_no_file_takes_long(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    begin = time.process_time()
    with pytest.raises(UsageError, match=message):
        load_topology(path)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pear", r"(?s)no topology of this name; did you mean pair\?.*shipped ones: .*pair"),
        ("nowhere/x.yaml", "there is no such file"),
        ("/etc", "is a directory"),
        ("a\0b.yaml", "null byte"),
        ("", "no topology of this name"),
        ("x" * 5000, "(?i)too long"),
    ],
)
def test_what_is_no_file(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?i){message}" if "(?" not in message else message):
        load_topology(name)


def test_merged_and_aliased_values_are_as_usual() -> None:
    text = (
        "name: x\nhosts:\n  a: &base {role: client, managed: true}\n"
        "  b: {<<: *base, role: server}\n  c: *base\n"
    )
    hosts = read_topology(text).hosts
    assert [(host.role, host.managed) for host in hosts.values()] == [
        ("client", True),
        ("server", True),
        ("client", True),
    ]


def test_counts_in_place_of_the_files_own() -> None:
    assert len(load_topology("bridge", {"pod": 7}).hosts) == 8
    with pytest.raises(UsageError, match=r"no host pood; did you mean pod\?"):
        load_topology("bridge", {"pood": 7})
    with pytest.raises(UsageError, match=r"node has no count"):
        load_topology("bridge", {"node": 7})
    with pytest.raises(UsageError, match=r"hosts\.pod\.count"):
        load_topology("bridge", {"pod": 0})


def test_objects_are_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(TWO + "programs: [{objects: [build/x.o], at: client}]", encoding="utf-8")
    topology = load_topology(path)
    assert topology.object_files(topology.programs[0]) == [tmp_path / "build/x.o"]


WORDS = (
    *("name", "hosts", "links", "client", "server", "gateway", "bridges", "br0", "addresses", "count"),
    *("10.0.0.1/24", "routes", "ends", "host", "<<", "*a", "&a ", "!!int ", "1", "null", "true", "x"),
)
TEXTS = st.lists(
    st.sampled_from([*WORDS, ": ", "{", "}", "[", "]", ", ", "\n", "\n  ", "- ", "'", '"', "|", "? ", "--- "])
    | st.text(max_size=3)
).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | st.floats() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(
    TEXTS
    | VALUES.map(yaml.safe_dump)
    | st.dictionaries(st.sampled_from(WORDS[:3]), VALUES).map(yaml.safe_dump)
)
def test_any_text_is_a_topology_or_has_mistakes(text: str) -> None:
    try:
        read_topology(text)
    except TopologyError as error:
        said = [str(each) for each in error.mistakes]
        assert said
        assert all(re.match(r"topology:\d+:\d+: ", each) for each in said)


@pytest.mark.parametrize("name", shipped())
def test_the_schema_is_right_about_what_is_shipped(name: str) -> None:
    schema = jsonschema.Draft7Validator(json_schema())
    schema.validate(yaml.safe_load((ROOT / "topologies" / f"{name}.yaml").read_text(encoding="utf-8")))
    schema.validate(load_topology(name).as_dict())


@pytest.mark.parametrize(
    "wrong", [{"nane": "x"}, {"hosts": {"A": {}}}, {"hosts": {"a": {"gatway": "b"}}}, {"links": [["a"]]}]
)
def test_the_schema_finds_mistakes(wrong: dict[str, object]) -> None:
    assert list(jsonschema.Draft7Validator(json_schema()).iter_errors({"name": "x", "hosts": {}, **wrong}))


PARTS: dict[str, type[BaseModel]] = {
    "": Topology,
    "hosts.NAME.": HostSpec,
    "links[].": LinkSpec,
    "links[].ends[].": EndSpec,
    "links[].impair.": ImpairSpec,
    "programs[].": ProgramsSpec,
}


def test_the_table_has_every_field() -> None:
    page = (ROOT / "docs" / "topologies.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([^`]+)` \|", page.partition("## Every field")[2], re.MULTILINE)
    assert table == [prefix + field for prefix, part in PARTS.items() for field in part.model_fields]
    for part in PARTS.values():
        assert all(field.description for field in part.model_fields.values())


def test_what_the_page_shows_is_what_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file with two mistakes, and what is said of it, as they are pasted."""
    page = (ROOT / "docs" / "topologies.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(yaml|text|python)\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    texts = [text for kind, text in blocks if kind == "yaml"]
    for text in texts:
        if "gatway" not in text and "hosts:" in text:
            read_topology(text)
    wrong = next(text for text in texts if "gatway" in text)
    Path("lab.yaml").write_text(wrong, encoding="utf-8")
    with pytest.raises(TopologyError) as caught:
        load_topology("lab.yaml")
    said = next(text for kind, text in blocks if kind == "text" and "gatway" in text)
    assert said.splitlines()[1:] == [str(each) for each in caught.value.mistakes]


def test_python_on_the_page_runs() -> None:
    page = (ROOT / "docs" / "topologies.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(text, "topologies.md", "exec"), names)  # noqa: S102 (our own page)
    assert any(isinstance(value, Topology) for value in names.values())
