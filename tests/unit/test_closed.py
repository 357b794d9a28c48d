"""Foreign sources may take in themselves and the system's headers, however they ask for more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from testbed.bpf.elf.closed import need_closed
from testbed.errors import UsageError
from tests.conftest import ROOT

ELSEWHERE = [
    ("a macro", '#define X "/etc/hostname"\n#include X\n'),
    ("a digraph", '%:include "/etc/hostname"\n'),
    ("a comment", '#/**/include "/etc/hostname"\n'),
    ("two lines", '#inc\\\nlude "/etc/hostname"\n'),
    ("a way up", '#include "../../../../../../../../etc/hostname"\n'),
    ("the assembler", '__asm__(".inc" "bin \\"/etc/hostname\\"");\n'),
]


@pytest.mark.parametrize("text", [text for _, text in ELSEWHERE], ids=[name for name, _ in ELSEWHERE])
def test_a_file_elsewhere(tmp_path: Path, text: str) -> None:
    source = tmp_path / "x.c"
    source.write_text(text + "int y;\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"compile x: .*(a file elsewhere|take in a file)"):
        need_closed("compile x", source, (), tmp_path)


def test_the_reference_is_closed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "bpf", tmp_path / "bpf")
    for name in ("sockops", "connect", "sendmsg"):
        source = tmp_path / "bpf" / f"{name}.c"
        need_closed(f"compile {name}", source, (tmp_path / "bpf/include",), tmp_path)
