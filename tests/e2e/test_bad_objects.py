"""Objects that are none, or no good ones: one error in one line that says why, and nothing is left."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.program_set import ProgramSet
from testbed.errors import TestbedError, UsageError
from testbed.lab.wait import eventually
from tests.conftest import ROOT
from tests.e2e.test_cli import NOBODY
from tests.objects import AT_SOCKET, GPL, HEAD, TEXTS, compiled, kernel_objects, nothing_left, workers

PROGRAM = AT_SOCKET % "run" + "{ return 1; }"
ASKS_TIME = AT_SOCKET % "run" + "{ return bpf_ktime_get_ns() ? 1 : 0; }"
TRACES = AT_SOCKET % "run" + '{ bpf_printk("x"); return 1; }'


@pytest.fixture(scope="module")
def loader() -> Iterator[ObjectLoader]:
    with ObjectLoader() as made:
        yield made


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    return compiled(folder, "good", HEAD + GPL + TEXTS["one"]).read_bytes()


Make = Callable[[Path, bytes], Path]


def source(text: str, *flags: str, target: str = "bpf", head: str = HEAD + GPL) -> Make:
    """An object that is compiled from a text."""
    return lambda folder, _: compiled(folder, "bad", head + text, flags or ("-g",), target=target)


def a_map(kind: str, entries: str, key: str, value: str) -> Make:
    return source(
        f"struct {{ __uint(type, {kind}); __uint(max_entries, {entries}); __uint(key_size, {key});"
        f'__uint(value_size, {value}); }} bad SEC(".maps");' + PROGRAM
    )


def edited(edit: Callable[[bytearray], object], name: str = "bad.o") -> Make:
    """The good object's bytes, changed."""

    def make(folder: Path, good: bytes) -> Path:
        data = bytearray(good)
        edit(data)
        (folder / name).write_bytes(data)
        return folder / name

    return make


def written(data: bytes, name: str = "bad.o") -> Make:
    return edited(lambda old: old.__setitem__(slice(None), data), name)


def cut(size: int) -> Make:
    return edited(lambda data: data.__delitem__(slice(size % len(data), None)))


def poked(at: int, data: bytes) -> Make:
    return edited(lambda old: old.__setitem__(slice(at, at + len(data)), data))


def in_section(name: str, at: int, data: bytes) -> Make:
    def edit(old: bytearray) -> None:
        found = ELFFile(io.BytesIO(bytes(old))).get_section_by_name(name)
        assert found is not None
        start = found["sh_offset"] + at
        old[start : start + len(data)] = data

    return edited(edit)


def fifo(folder: Path, _: bytes) -> Path:
    os.mkfifo(folder / "fifo.o")
    return folder / "fifo.o"


def loop(folder: Path, _: bytes) -> Path:
    (folder / "loop.o").symlink_to("loop.o")
    return folder / "loop.o"


def stripped(make: Make) -> Make:
    def strip(folder: Path, good: bytes) -> Path:
        path = make(folder, good)
        subprocess.run(["llvm-strip", path], check=True)  # noqa: S607
        return path

    return strip


LEGACY = """
struct { unsigned int type, key_size, value_size, max_entries; } old SEC("maps") = { 1, 4, 4, 1 };
"""
TWICE = """
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); } bad SEC(".maps");
"""
BAD: dict[str, tuple[Make, str]] = {
    "text": (written(b"hello world\n"), r"it is not an ELF file (it begins with b'hell')"),
    "C source": (written(b"int x;", "x.c"), "it is C source, not an ELF object"),
    "empty": (written(b""), "it is empty"),
    "directory": (lambda folder, _: folder, "it is a directory"),
    "missing": (lambda folder, _: folder / "no.o", "ENOENT (No such file or directory)"),
    "no directory": (lambda *_: Path(__file__) / "x.o", "ENOTDIR (Not a directory)"),
    "loop": (loop, "ELOOP (Too many levels of symbolic links)"),
    "null byte": (lambda folder, _: folder / "a\0b", "embedded null"),
    "FIFO": (fifo, "it is no regular file"),
    "device": (lambda *_: Path("/dev/zero"), "it is no regular file"),
    "cut in the magic": (cut(3), "it is not an ELF file"),
    "cut in the header": (cut(20), "it is truncated: 20 bytes are less than an ELF header"),
    "cut behind the header": (cut(64), "it is truncated: its section table ends at byte"),
    "cut in the code": (cut(100), "it is truncated: its section table ends at byte"),
    "cut at the end": (cut(-1), "it is truncated: its section table ends at byte"),
    "32 bits": (poked(4, b"\1"), "it is a 32-bit ELF file; BPF objects have 64"),
    "big-endian": (source(PROGRAM, "-g", target="bpfeb"), "it is for big-endian machines; compile it with"),
    "x86": (source("int x;", target="x86_64", head=""), "its machine is x86-64, not BPF"),
    "program": (lambda *_: Path(sys.executable), "its machine is x86-64, not BPF"),
    "shared library": (poked(16, b"\3"), "it is ET_DYN, not a relocatable object (ET_REL)"),
    "executable": (poked(16, b"\2"), "it is ET_EXEC, not a relocatable object (ET_REL)"),
    "no BTF": (source(TEXTS["one"], "-O2"), "no .BTF section); compile it with -g"),
    "stripped": (stripped(edited(len)), "no .BTF section); compile it with -g"),
    "stripped, no maps": (
        stripped(source(PROGRAM)),
        "couldn't find symbol table in bad, stripped object file?",
    ),
    "no BTF magic": (in_section(".BTF", 0, bytes(2)), "its BTF is damaged: its magic is 0x0000, not 0xeb9f"),
    "BTF of nothing": (
        in_section(".BTF", 24, bytes(64)),
        "its BTF is damaged: type 1 is of the unknown kind 0",
    ),
    "BTF cut off": (in_section(".BTF", 12, b"\xff"), "its BTF is damaged: "),
    "legacy maps": (source(LEGACY + PROGRAM), "legacy map definitions in 'maps' section are not supported"),
    "no max_entries": (
        a_map("BPF_MAP_TYPE_HASH", "0", "4", "4"),
        "map 'bad': failed to create: Invalid arg",
    ),
    "absurd hash": (a_map("BPF_MAP_TYPE_HASH", "0xffffffff", "4", "1 << 20"), "MiB that are left for it"),
    "absurd array": (a_map("BPF_MAP_TYPE_ARRAY", "0x7fffffff", "4", "4096"), "MiB that are left for it"),
    "empty ring": (
        a_map("BPF_MAP_TYPE_RINGBUF", "0", "0", "0"),
        "map 'bad': failed to create: Invalid arg",
    ),
    "no key": (a_map("BPF_MAP_TYPE_HASH", "1", "0", "4"), "map 'bad': failed to create: Invalid arg"),
    "long key": (a_map("BPF_MAP_TYPE_ARRAY", "1", "8", "4"), "map 'bad': failed to create: Invalid arg"),
    "unknown type": (a_map("999", "1", "4", "4"), "map 'bad': failed to create: Invalid arg"),
    "untyped value": (source(TWICE + PROGRAM), "map 'bad': failed to create: Invalid arg"),
    "no license": (source(PROGRAM, head=HEAD), "it has no license section"),
}


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_bad_object(loader: ObjectLoader, good: bytes, tmp_path: Path, make: Make, words: str) -> None:
    path = make(tmp_path, good)
    eventually(lambda: loader.pid in workers(), awaited="the loader's process at work")
    with nothing_left():
        with pytest.raises(TestbedError) as raised:
            load_objects(loader, [path])
        assert kernel_objects(loader.pid) == set()
    error = raised.value
    assert words in error.why
    assert "\n" not in error.why
    assert error.what in {f"read the object {path}", f"load the object {path}"}
    assert error.exit_code == 2
    assert "Errno" not in str(error)
    assert "Traceback" not in str(error)


def test_an_object_that_is_named_twice(loader: ObjectLoader, good: bytes, tmp_path: Path) -> None:
    path = written(good)(tmp_path, good)
    (tmp_path / "again.o").symlink_to(path)
    with pytest.raises(UsageError, match=r"load .*/again.o: it is named twice"):
        load_objects(loader, [path, tmp_path / "again.o"])
    with pytest.raises(UsageError, match="there is none"):
        load_objects(loader, [])


def test_an_object_that_nobody_may_read(good: bytes, tmp_path: Path) -> None:
    path = written(good)(tmp_path, good)
    text = f"from testbed.bpf.elf.file import *; read_object(Path({str(path)!r}))"
    command = [*NOBODY, sys.executable, "-c", text]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=20)
    assert f"ObjectError: read the object {path}: EACCES (Permission denied)" in done.stderr


@pytest.mark.parametrize(
    ("text", "license_text", "reasons"),
    [
        ('SEC("my/own") int run(void *ctx) { return 1; }', "GPL", ["no programs of the section 'my/own'"]),
        ("int nothing = 1;", "GPL", []),
        (TRACES, "Proprietary", ["cannot call GPL-restricted function from non-GPL compatible program"]),
        (PROGRAM.replace("return 1", "return 2"), "GPL", ["R0"]),
    ],
)
def test_what_fails_alone(
    loader: ObjectLoader, tmp_path: Path, text: str, license_text: str, reasons: list[str]
) -> None:
    path = source(text, head=HEAD + GPL.replace("GPL", license_text))(tmp_path, b"")
    eventually(lambda: loader.pid in workers(), awaited="the loader's process at work")
    with nothing_left(), load_objects(loader, [path]) as loaded:
        assert isinstance(loaded, ProgramSet)
        assert loaded.programs == {}
        for failure, reason in zip(loaded.failures, reasons, strict=True):
            assert reason in failure.reason
            assert "\n" not in failure.reason


def test_a_license_of_ones_own_is_taken(loader: ObjectLoader, tmp_path: Path) -> None:
    path = source(ASKS_TIME, head=HEAD + GPL.replace("GPL", "Proprietary"))(tmp_path, b"")
    with load_objects(loader, [path]) as loaded:
        assert (list(loaded.programs), loaded.failures) == (["run"], ())
