"""Every file format that the testbed reads, damaged: a value or one clear error comes back, nothing else.

``FUZZ_EXAMPLES=5000`` in the environment has as many of each, at random, in place of the same 40 each
time. Objects under the real libbpf and kernel are damaged in ``tests/e2e/test_object_fuzz.py``.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.bpf.elf.file import ObjectFile, explain, license_of
from testbed.bpf.types.btf import BtfError, parse_btf
from testbed.capsule.collect import collect
from testbed.capsule.contents import capsule_of
from testbed.capsule.model import Material, Scenario
from testbed.errors import TestbedError
from testbed.guest.line import Line
from testbed.guest.messages import NoMessage, parse_message
from testbed.keeper.protocol import parse_request
from testbed.keeper.registry import _parse as parse_record
from testbed.kernels.image import read_image
from testbed.kernels.index import FORMAT, Index, load_index
from testbed.kmesh.profile import PROFILES, read_profile
from testbed.runs.archive import pack, unpack
from testbed.runs.model import info_now
from testbed.runs.reader import archived_run, read_folder
from testbed.runs.writer import Recording
from testbed.topology.load import load_topology, shipped
from tests.conftest import ROOT
from tests.damage import ANYTHING, damaged_bytes, damaged_json, damaged_yaml
from tests.objects import COUNTER, GPL, HEAD, compiled
from tests.stories import failed, passed

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
fuzzed = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=_EXAMPLES == 40,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def clear(read: Callable[[], object], *others: type[Exception]) -> None:
    """It is read, or is refused in one line without anything that a terminal would obey."""
    problem: Exception | None = None
    refusals: tuple[type[Exception], ...] = (TestbedError, *others)
    try:
        read()
    except refusals as error:
        problem = error
    if isinstance(problem, TestbedError):
        assert "\n" not in problem.why
        assert "\x1b" not in str(problem)
        assert len(str(problem)) < 2000, "that is no one clear line"
    assert problem is None or str(problem)


def in_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    """Reads bytes as a file of that name."""

    def from_file(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(data)
            result = read(path)
            assert os.listdir(folder) == [name], "reading has written something"  # noqa: PTH208
            return result

    return from_file


@fuzzed
@given(st.sampled_from(shipped()).flatmap(lambda name: damaged_yaml(text_of(f"topologies/{name}.yaml"))))
def test_topologies(data: bytes) -> None:
    clear(lambda: in_file(load_topology, "x.yaml")(data))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@fuzzed
@given(
    st.sampled_from(sorted(PROFILES.glob("*.yaml"))).flatmap(
        lambda path: damaged_yaml(path.read_text(encoding="utf-8"))
    )
)
def test_profiles(data: bytes) -> None:
    clear(lambda: in_file(read_profile, "x.yaml")(data))


@cache
def capsule_members() -> dict[str, bytes]:
    story = failed()
    scenario = Scenario(story.test, family="v4", title="a title", seed=7, tail_calls=("a:0=b",))
    return collect(Material(story, scenario, info_now(["testbed", "check"], "the set"), packets=b"packets"))


@fuzzed
@given(damaged_bytes(pack(capsule_members())))
def test_capsules(data: bytes) -> None:
    clear(lambda: capsule_of(unpack(data, "it"), "it"))


@fuzzed
@given(st.data())
def test_capsules_that_are_sealed(data: st.DataObject) -> None:
    """Made by somebody who knows the format: all is as described, and one member says what it should not."""
    members = dict(capsule_members())
    name = data.draw(st.sampled_from(sorted(each for each in members if each.endswith(".json"))))
    members[name] = data.draw(damaged_json(json.loads(members[name])))

    def read() -> None:
        capsule = capsule_of(unpack(pack(members), "it"), "it")
        assert all(list(map(str, line)) for line in capsule.lines())
        capsule.changes(), capsule.foreign()
        archived_run(members, "it")

    clear(read)


@fuzzed
@given(st.data())
def test_runs(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTBED_STATE", folder)
        with Recording(info_now(["testbed", "check"], "the set")) as recording:
            recording.add(failed(), b"packets")
            recording.add(passed())
            recording.finish(())
        files = sorted(path for path in recording.folder.rglob("*") if path.is_file())
        path = data.draw(st.sampled_from(files))
        whole = path.read_bytes()
        is_json = path.suffix == ".json"
        path.write_bytes(data.draw(damaged_json(json.loads(whole)) if is_json else damaged_bytes(whole)))
        clear(lambda: read_folder(recording.folder))


SAID: list[dict[str, Any]] = [
    {"event": "up", "release": "6.12.1", "failed": ["load x: ENOENT"], "loops": 1e7},
    {"event": "output", "stream": 1, "data": base64.b64encode(zlib.compress(b"words")).decode()},
    {"event": "collected", "digest": "00", "count": 3},
    {"event": "fatal", "code": 3, "words": ["load x", "EPERM", "", ""]},
    {"event": "start", "item": 1},
    {"event": "result", "item": 1, "outcome": "failed", "seconds": 0.1, "details": "why", "violated": ["a"]},
    {"event": "exit", "code": 3},
    {"event": "done"},
]


@pytest.mark.parametrize("message", SAID, ids=lambda message: message["event"])
def test_messages_of_guests_are_read(message: dict[str, Any]) -> None:
    assert parse_message(json.dumps(message).encode()).event == message["event"]


@fuzzed
@given(
    st.lists(
        st.sampled_from(SAID).flatmap(damaged_json)
        | st.sampled_from(SAID).map(lambda each: json.dumps(each).encode())
        | st.binary(max_size=40),
        max_size=5,
    ),
    st.integers(1, 200),
)
def test_what_guests_say(lines: list[bytes], size: int) -> None:
    """As it comes from a serial port: in pieces of any size, with other words between."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = Line(ours)
        said = b"".join(b"\n".join([b"a splat", line.nonce.encode() + b" " + each, b""]) for each in lines)
        for start in range(0, len(said), size):
            theirs.sendall(said[start : start + size])
            for message in line.take_in() or []:
                assert str(message)


@pytest.mark.parametrize(
    "message",
    [
        {"event": "result", "item": 1, "outcome": "passed", "seconds": "x", "details": "", "violated": []},
        {"event": "output", "stream": 1, "data": "no base64"},
        {"event": "output", "stream": 1, "data": base64.b64encode(zlib.compress(b"x" * (65 << 20))).decode()},
        {"event": "up", "release": "6.12", "failed": [], "loops": 0},
        {"event": "fatal", "words": []},
        {"event": "done", "more": 1},
        ["done"],
    ],
)
def test_what_is_no_message_is_told(message: object) -> None:
    with pytest.raises(NoMessage) as caught:
        parse_message(json.dumps(message).encode())
    assert "\n" not in str(caught.value)


REQUESTS = [
    {"request": "about", "version": 1},
    {"request": "manage", "version": 1, "host": "client", "on": True},
    {"request": "impair", "version": 1, "link": "a-b", "words": ["delay=1ms"]},
]


@fuzzed
@given(st.sampled_from(REQUESTS).flatmap(damaged_json))
def test_requests_to_keepers(data: bytes) -> None:
    clear(lambda: parse_request(data))


@fuzzed
@given(damaged_json({"name": "x", "topology": "pair", "pid": 1, "since": 1.0, "command": "up"}))
def test_records_of_labs(data: bytes) -> None:
    clear(lambda: parse_record(Path("x.json"), data))


@cache
def an_object() -> bytes:
    text = (
        HEAD
        + GPL
        + COUNTER
        + 'SEC("sockops") int first(struct bpf_sock_ops *skops) { counted(0); return 1; }\n'
    )
    with tempfile.TemporaryDirectory() as folder:
        return compiled(Path(folder), "x", text).read_bytes()


@fuzzed
@given(st.data())
def test_objects(data: st.DataObject) -> None:
    """What we read of them ourselves."""
    file = ObjectFile(Path("x.o"), data.draw(damaged_bytes(an_object())))
    assert "\n" not in explain(file, "libbpf: elf: failed", "it is damaged")
    clear(lambda: license_of(file))


@fuzzed
@given(st.data())
def test_types(data: st.DataObject) -> None:
    section = ELFFile(io.BytesIO(an_object())).get_section_by_name(".BTF")
    assert section is not None
    damaged = data.draw(damaged_bytes(section.data()))
    clear(lambda: parse_btf(damaged), BtfError)


@cache
def an_image() -> bytes:
    header = bytearray(0x1000)
    header[0x1FE:0x200] = b"\x55\xaa"
    header[0x202:0x206] = b"HdrS"
    header[0x206:0x208] = (0x20C).to_bytes(2, "little")
    header[0x1F1] = 4
    return bytes(header) + b"\x1f\x8b" + b"Linux version 6.12.1 (x) "


@fuzzed
@given(st.data())
def test_kernel_images(data: st.DataObject) -> None:
    image = data.draw(st.sampled_from([an_image(), b"\x7fELF" + an_image(), an_object()]))
    damaged = data.draw(damaged_bytes(image))
    clear(lambda: read_image(damaged, "it"))


PACKAGE = {"name": "linux-image", "url": "file:///x.deb", "size": 7, "sha256": "00" * 32}
INDEX = {
    "format": FORMAT,
    "read": 1.5,
    "offers": [
        {"version": "6.12.1-1", "release": "6.12.1", "suite": "x", "packages": [PACKAGE], "missing": []},
    ],
}


@fuzzed
@given(damaged_json(INDEX) | ANYTHING.map(json.dumps).map(str.encode))
def test_indexes_of_kernels(data: bytes) -> None:
    """One that is damaged is made again."""
    index = in_file(load_index, "index.json")(data)
    if isinstance(index, Index):
        assert all(offer.entry.name for offer in index.offers)


def test_an_index_is_read() -> None:
    index = in_file(load_index, "index.json")(json.dumps(INDEX).encode())
    assert isinstance(index, Index)
    assert index.offers[0].size == 7
