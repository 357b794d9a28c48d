"""The expansion of includes into one text for bcc."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.bpf.source import expand
from testbed.errors import ProgramError


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")


def test_each_header_once_and_lines_named(tmp_path: Path) -> None:
    write(tmp_path, a_h="#pragma once\nint a;\n", b_h='#pragma once\n#include "a.h"\nint b;\n')
    write(tmp_path, x_c='#include "a.h"\n#include "b.h"\nint x;\n')
    text = expand([tmp_path / "x.c"], [])
    assert text.count("int a;") == 1
    assert "#pragma" not in text
    # what stands behind an include has its own line number again
    assert f'#line 3 "{tmp_path}/x.c"\nint x;' in text


def test_shared_headers_of_two_sources_once(tmp_path: Path) -> None:
    write(tmp_path, a_h="int a;\n", x_c='#include "a.h"\n', y_c='#include "a.h"\n')
    assert expand([tmp_path / "x.c", tmp_path / "y.c"], []).count("int a;") == 1


def test_system_includes_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, x_c="#include <linux/bpf.h>\n")
    assert "#include <linux/bpf.h>" in expand([tmp_path / "x.c"], [])


def test_lines_are_named_again_within_each_function(tmp_path: Path) -> None:
    write(tmp_path, x_c="int f(void)\n{\n\treturn 1;\n}\n")
    assert f'{{\n#line 3 "{tmp_path}/x.c"\n\treturn 1;' in expand([tmp_path / "x.c"], [])


def test_include_directories_are_searched(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    write(tmp_path / "include", a_h="int a;\n")
    write(tmp_path, x_c='#include "a.h"\n')
    assert "int a;" in expand([tmp_path / "x.c"], [tmp_path / "include"])


def test_a_missing_header_names_the_line(tmp_path: Path) -> None:
    write(tmp_path, x_c='int x;\n#include "no.h"\n')
    with pytest.raises(ProgramError, match=r"x\.c:2: include no\.h"):
        expand([tmp_path / "x.c"], [])


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"read .*none\.c: .*No such file"):
        expand([tmp_path / "none.c"], [])
