"""``testbed build``: the reference set as ELF objects."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from tests.conftest import Run
from tests.e2e.test_cli import NOBODY

Edit = Callable[[str, str, str], Path]
OBJECTS = ("sockops.o", "connect.o", "sendmsg.o")
PROGRAMS = {"sockops_prog", "connect4_prog", "connect6_prog", "sendmsg_prog"}


def test_three_objects_that_load(testbed_command: Run) -> None:
    """Made without root, in a directory that was not there."""
    with tempfile.TemporaryDirectory() as writable:  # not tmp_path: nobody else may enter where that is
        Path(writable).chmod(0o777)
        folder = Path(writable, "not", "yet")
        done = testbed_command("build", "-o", str(folder), prefix=NOBODY)
        assert (done.returncode, done.stderr) == (0, "")
        assert {path.name for path in folder.iterdir()} == set(OBJECTS)
        objects = [folder / name for name in OBJECTS]
        with ObjectLoader() as loader, load_objects(loader, objects) as program_set:
            assert program_set.failures == ()
            assert set(program_set.programs) == PROGRAMS
            assert program_set.globals["bpf_log_level"] == 2


def test_a_c_error_is_one_message(testbed_command: Run, edited_checkout: Edit, tmp_path: Path) -> None:
    root = edited_checkout("sockops.c", "watch_state(skops);", "watch_state(skop);")
    done = testbed_command("build", "-o", str(tmp_path / "objects"), cwd=root)
    assert done.returncode == 3
    assert "cannot compile sockops.c: use of undeclared identifier 'skop'" in done.stderr
    assert f"{root}/bpf/sockops.c:" in done.stderr
    assert "watch_state(skop);" in done.stderr
    assert done.stderr.count("undeclared identifier") == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "objects").exists()


def test_a_folder_that_is_a_file_is_2(in_process: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    done = in_process("build", "-o", str(file))
    assert done.returncode == 2
    assert f"cannot make the directory {file}: EEXIST" in done.stderr
    assert file.read_text(encoding="utf-8") == "mine"
