"""Sets of programs as files: what is damaged is told apart, what cannot be loaded again is not made."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.bpf import bytecode, libbpf
from testbed.bpf.bcc_kept import keep_code, kept_code, kept_path
from testbed.bpf.bytecode import MapCode, SetCode, set_code
from testbed.bpf.headers import Headers
from testbed.bpf.kinds import MapType

LOAD_MAP = struct.pack("=BBhi", 0x18, 0x10, 0, 0) + bytes(8)  # BPF_LD | BPF_IMM | BPF_DW of the map 0
CODE = SetCode("GPL", (MapCode("map", 1, 4, 8, 16, 0, 0, 1, 2),), {"prog": LOAD_MAP}, (b"btf",), "said")


def test_it_is_read_as_it_was_written() -> None:
    assert SetCode.from_bytes(CODE.to_bytes()) == CODE


def of_map(field: str, value: object) -> Callable[[Any], None]:
    return lambda told: told["maps"][0].update({field: value})


DAMAGE: dict[str, Callable[[Any], object]] = {
    "a type that is text": of_map("type", "1"),
    "a size that is a fraction": of_map("key_size", 4.0),
    "a size that is true": of_map("value_size", True),
    "a size that is nothing": of_map("value_size", None),
    "a size that is a list": of_map("max_entries", [16]),
    "a size that is too large": of_map("max_entries", 1 << 32),
    "a name that is a number": of_map("name", 1),
    "a name that nothing encodes": of_map("name", "\ud800"),
    "a BTF that is not there": of_map("btf", 1),
    "a map that is not there": lambda told: told["maps"].clear(),
    "a map too many a field": of_map("more", 1),
    "maps that are a number": lambda told: told.update(maps=1),
    "half an instruction": lambda told: told["programs"].update(prog=bytecode._text(LOAD_MAP[:4])),
    "a program that is a number": lambda told: told["programs"].update(prog=1),
    "no license": lambda told: told.pop("license"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_counts_as_not_kept(tmp_path: Path, name: str) -> None:
    told = json.loads(CODE.to_bytes())
    DAMAGE[name](told)
    data = json.dumps(told).encode()
    with pytest.raises(ValueError, match="it is no set of programs"):
        SetCode.from_bytes(data)
    path = tmp_path / "set.bcc"
    path.write_bytes(data)
    assert kept_code(path) is None
    keep_code(path, CODE)
    assert kept_code(path) == CODE


@pytest.mark.parametrize(
    ("kind", "is_made"),
    [
        (MapType.HASH, True),
        (MapType.ARRAY, True),
        (MapType.ARRAY_OF_MAPS, False),
        (MapType.HASH_OF_MAPS, False),
    ],
)
def test_maps_of_maps_are_not_kept(monkeypatch: pytest.MonkeyPatch, kind: MapType, is_made: bool) -> None:
    """What is in them could not be made again."""
    monkeypatch.setattr(libbpf, "map_info", lambda _fd: (int(kind), 4, 4, 1, 0))
    monkeypatch.setattr(libbpf, "map_btf", lambda _fd: None)
    made = set_code({"prog": LOAD_MAP}, {"map": 0}, "GPL", "")
    assert (made is not None) is is_made


@pytest.fixture
def headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Headers:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    spec = SimpleNamespace(origin=str(tmp_path / "bcc.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: spec)
    return Headers(tmp_path, ())


@pytest.mark.parametrize("field", [2, 3, 4])
def test_what_another_kernel_compiled_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, headers: Headers, field: int
) -> None:
    """bcc asks the kernel that runs what there is: its release, its build and its machine."""
    here = kept_path("text", [], headers)
    assert here is not None
    assert kept_path("text", [], headers) == here
    other = tuple("other" if number == field else word for number, word in enumerate(os.uname()))
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(other))
    assert kept_path("text", [], headers) not in {here, None}


def test_all_else_that_it_depends_on(headers: Headers) -> None:
    paths = {
        kept_path("text", [], headers),
        kept_path("other", [], headers),
        kept_path("text", ["-D"], headers),
        kept_path("text", [], replace(headers, source=headers.source / "other")),
    }
    assert len(paths - {None}) == 4
