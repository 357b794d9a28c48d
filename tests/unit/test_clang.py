"""Objects out of C sources."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from testbed.bpf.elf.clang import compile_object, compile_objects
from testbed.errors import ExitCode, MachineError, ProgramError, UsageError

Write = Callable[[str, str], Path]
GOOD = '__attribute__((section("sockops"))) int f(int *p)\n{\n\treturn p[0];\n}\n'
BAD = "int g(void)\n{\n\treturn nowhere;\n}\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_builds_are_identical_wherever_they_are_started(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "include").mkdir()
    write("include/type.h", "typedef int number;\n")
    source = write("x.c", f'#include "type.h"\n{GOOD.replace("int *p", "number *p")}')
    monkeypatch.chdir("/")
    compile_object(source, [tmp_path / "include"], tmp_path / "one.o")
    monkeypatch.chdir(tmp_path / "include")
    compile_object(Path("../x.c"), [Path()], Path("../two.o"))
    assert (tmp_path / "one.o").read_bytes() == (tmp_path / "two.o").read_bytes()


def test_line_information_names_the_source(write: Write, tmp_path: Path) -> None:
    source = write("x.c", GOOD)
    compile_object(source, [], tmp_path / "x.o")
    elf = ELFFile(io.BytesIO((tmp_path / "x.o").read_bytes()))
    assert elf["e_machine"] == "EM_BPF"
    strings = elf.get_section_by_name(".BTF")
    assert strings is not None
    assert f"\0{source}\0".encode() in strings.data()
    assert b"\0\treturn p[0];\0" in strings.data()


def test_includes_and_defines(write: Write, tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    write("include/value.h", "enum { VALUE = OTHER };\n")
    source = write("x.c", '#include <linux/bpf.h>\n#include "value.h"\nint f(void)\n{\n\treturn VALUE;\n}\n')
    compile_object(source, [tmp_path / "include"], tmp_path / "x.o", ["OTHER=7"])
    with pytest.raises(ProgramError, match="undeclared identifier 'OTHER'"):
        compile_object(source, [tmp_path / "include"], tmp_path / "x.o")


def test_a_c_error_tells_the_line_and_leaves_the_older_object(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write("broken.c", BAD), write("x.o", "older")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProgramError) as caught:
        compile_object(Path("broken.c"), [], output)
    error = caught.value
    assert (error.what, error.why) == ("compile broken.c", "use of undeclared identifier 'nowhere'")
    place, line, caret = error.details.splitlines()
    assert place == f"{source}:3:9:"
    assert line.endswith("return nowhere;")  # clang 17 and later: behind its number
    assert line.index("nowhere") == caret.index("^")
    assert error.fix.startswith("mend that line; all of the output is in ")
    log = Path(error.fix.rpartition(" is in ")[2])
    assert "1 error generated." in log.read_text(encoding="utf-8")
    assert output.read_text(encoding="utf-8") == "older"
    assert names(tmp_path) == {"broken.c", "x.o"}


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"compile none\.c: .*no such file") as caught:
        compile_object(tmp_path / "none.c", [], tmp_path / "x.o")
    assert caught.value.fix.startswith("all of the output is in ")


def test_an_older_object_is_replaced_whole(write: Write, tmp_path: Path) -> None:
    """By another file: whoever has the older one open goes on reading that."""
    source, output = write("x.c", GOOD), write("x.o", "older")
    with output.open(encoding="utf-8") as older:
        compile_object(source, [], output)
        assert older.read() == "older"
    assert output.read_bytes().startswith(b"\x7fELF")
    assert names(tmp_path) == {"x.c", "x.o"}


def test_without_clang(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError) as caught:
        compile_object(write("x.c", GOOD), [], tmp_path / "x.o")
    assert (caught.value.what, caught.value.fix) == ("find clang", "apt-get install clang")


@pytest.mark.parametrize(
    ("header", "package"), [("bpf/bpf_helpers.h", "libbpf-dev"), ("linux/bpf.h", "linux-libc-dev")]
)
def test_headers_that_the_machine_lacks(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, package: str
) -> None:
    """clang itself, told to look nowhere."""
    wrapper = write("clang", f'#!/bin/sh\nexec {shutil.which("clang")} -nostdinc "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(MachineError) as caught:
        compile_object(write("x.c", f"#include <{header}>\n"), [], tmp_path / "x.o")
    assert caught.value.fix == f"apt-get install {package}"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("x.c/x.o", "ENOTDIR"),
        ("none/x.o", "ENOENT"),
        ("folder", "EISDIR"),
        ("/proc/x.o", "ENOENT"),
    ],
)
def test_an_output_that_cannot_be_written(write: Write, tmp_path: Path, output: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    source = write("x.c", GOOD)
    with pytest.raises(UsageError, match=f"write {tmp_path / output}: {why}") as caught:
        compile_object(source, [], tmp_path / output)
    assert caught.value.exit_code == ExitCode.USAGE
    assert names(tmp_path) == {"folder", "x.c"}


def test_objects_in_a_new_folder(write: Write, tmp_path: Path) -> None:
    sources = [write(f"{name}.c", GOOD) for name in "cab"]
    folder = tmp_path / "out" / "objects"
    assert compile_objects(sources, [], folder) == [folder / "c.o", folder / "a.o", folder / "b.o"]
    assert names(folder) == {"a.o", "b.o", "c.o"}
    compile_object(sources[0], [], tmp_path / "c.o")
    assert (folder / "c.o").read_bytes() == (tmp_path / "c.o").read_bytes()


def test_objects_all_or_none(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"compile b\.c"):
        compile_objects([write("a.c", GOOD), write("b.c", BAD), write("c.c", BAD)], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file(write: Write) -> None:
    source = write("x.c", GOOD)
    with pytest.raises(UsageError, match=f"make the directory {source}: EEXIST"):
        compile_objects([source], [], source)


def test_two_sources_that_would_be_one_object(write: Write, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    sources = [write("x.c", GOOD), write("sub/x.c", GOOD)]
    with pytest.raises(UsageError, match="two of them would be one object"):
        compile_objects(sources, [], tmp_path / "out")
