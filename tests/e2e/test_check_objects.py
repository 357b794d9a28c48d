"""`testbed check --object`: what people bring, partial or broken, and what is said of it."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from testbed.bpf.elf.clang import compile_object
from testbed.check import Request, run_check
from testbed.data import data_dir
from testbed.errors import ExitCode, TestbedError
from testbed.kmesh.reference import build_reference
from tests.conftest import ROOT, Run
from tests.e2e.test_eras import counts

BPF = data_dir("bpf")
CONNECT6 = 'PROGRAM("cgroup/connect6")'


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    built = build_reference(tmp_path_factory.mktemp("reference"))
    return {path.stem: path for path in built}


def options(*paths: Path) -> list[str]:
    return [word for path in paths for word in ("--object", str(path))]


@pytest.mark.long
def test_the_top_says_what_the_set_contains(testbed_command: Run, objects: dict[str, Path]) -> None:
    done = testbed_command("check", "-k", "exactly_four", *options(*objects.values()))
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout) == {"passed": 4}
    assert f"object    {objects['sockops']}: sockops_prog" in done.stdout
    assert f"          {objects['connect']}: connect4_prog, connect6_prog" in done.stdout
    assert "era       main (Kmesh main), the newest of those that fit" in done.stdout
    assert "sockops.o, connect.o, sendmsg.o by libbpf" in done.stdout
    assert "untested" not in done.stdout


@pytest.mark.long
def test_sockops_alone(testbed_command: Run, objects: dict[str, Path]) -> None:
    """OUTBOUND runs with storage that the test makes; what sk_msg writes cannot be tested, and is said."""
    done = testbed_command("check", "--family", "v6", "-k", "not catalogue", *options(objects["sockops"]))
    assert done.returncode == 0, done.stdout
    assert "untested  no connect4 program: the test makes the storage of IPv4 clients" in done.stdout
    assert "no sk_msg program: nothing writes metadata ahead of the payload" in done.stdout
    row = next(line for line in done.stdout.splitlines() if "OUTBOUND: tuple, and the address" in line)
    assert row.split()[-1] == "pass"
    assert counts(done.stdout).keys() == {"passed", "skipped"}
    assert re.search(r" \d+ skipped  the set has no sk_msg program, which writes the metadata", done.stdout)


@pytest.fixture
def rejected(tmp_path: Path) -> Path:
    """A connect object of whose two programs the verifier takes one."""
    head, tail = (BPF / "connect.c").read_text(encoding="utf-8").split(CONNECT6)
    source = tmp_path / "connect.c"
    source.write_text(head + CONNECT6 + tail.replace("if (!storage)\n\t\treturn 1;", ""), encoding="utf-8")
    compile_object(source, [BPF / "include"], tmp_path / "connect.o")
    return tmp_path / "connect.o"


@pytest.mark.long
def test_a_rejected_program_is_reported_and_the_rest_used(
    testbed_command: Run, objects: dict[str, Path], rejected: Path
) -> None:
    paths = options(objects["sockops"], rejected, objects["sendmsg"])
    done = testbed_command("check", "-k", "outbound_record", *paths)
    assert done.returncode == 0, done.stdout
    assert "connect4_prog, connect6_prog (rejected)" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("rejected")]
    assert "connect6_prog (cgroup/connect6): EACCES (Permission denied): R" in line
    assert "invalid mem access" in line
    log = Path(line.rpartition("log: ")[2])
    assert "processed" in log.read_text(encoding="utf-8")
    assert "untested  no connect6 program" in done.stdout


def test_a_rejected_sockops_program_is_3_with_the_report(testbed_command: Run, tmp_path: Path) -> None:
    text = (BPF / "sockops.c").read_text(encoding="utf-8")
    source = tmp_path / "sockops.c"
    source.write_text(text.replace("if (!sk || !is_managed", "if (!is_managed"), encoding="utf-8")
    compile_object(source, [BPF / "include"], tmp_path / "sockops.o")
    done = testbed_command("check", *options(tmp_path / "sockops.o"))
    assert done.returncode == 3
    assert done.stderr.startswith(
        "testbed: cannot load sockops_prog (sockops): EACCES (Permission denied): R2 type="
    )
    assert "(85) call bpf_sk_storage_get#107 (instructions processed:" in done.stderr
    assert "R2 = sock_or_null" in done.stderr
    assert "storage_get" in done.stderr


def test_no_sockops_program(in_process: Run, objects: dict[str, Path]) -> None:
    done = in_process("check", "--abi", "main", *options(objects["sendmsg"]))
    assert done.returncode == 3
    assert "there is no sockops program in it, which the contract is about" in done.stderr


@pytest.mark.long
def test_nothing_that_could_be_tested_is_no_pass(testbed_command: Run, objects: dict[str, Path]) -> None:
    done = testbed_command("check", "-k", "enrols", "--abi", "v0.3", *options(objects["sockops"]))
    assert done.returncode == 3
    assert "as asked for; the set does not have: sockops program record_tuple" in done.stdout
    assert done.stderr.startswith("testbed: nothing was tested: every scenario was skipped")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objects": ("/nowhere.o",)}, "read the object /nowhere.o: ENOENT"),
        ({"objects": ("docs",)}, "it is a directory"),
        ({"objects": ("README.md",)}, "it is not an ELF file"),
        ({"objects": ("/bin/true",)}, "its machine is"),
        ({"abi": "v9"}, "it is neither an era nor a file"),
        ({"tail_calls": ("x:0=y",)}, "they are about objects, and --object names none"),
        ({"objects": ("/bin/true",), "tail_calls": ("x",)}, "--tail-call 'x': it is not MAP:INDEX=PROGRAM"),
        ({"objects": ("/bin/true",), "inner_maps": ("x=heap:4:4:1",)}, "'heap' is no type of maps"),
        ({"stories": Path("/no/such/dir/x")}, "No such file or directory"),
    ],
)
def test_bad_input_is_one_line(given: dict[str, Any], message: str) -> None:
    paths = tuple(ROOT / name for name in given.pop("objects", ()))
    output = io.StringIO()
    with pytest.raises(TestbedError) as caught:
        run_check(Request("v4", objects=paths, **given), Console(file=output))
    assert caught.value.exit_code == ExitCode.USAGE
    assert message in str(caught.value).replace(f"{ROOT}/", "")
    assert "\n" not in caught.value.why
    assert output.getvalue() == ""


def test_bad_input_is_2(in_process: Run) -> None:
    done = in_process("check", "--object", "/bin/true")
    assert done.returncode == 2
    assert done.stderr.startswith("testbed: cannot read the object /bin/true: its machine is x86-64, not BPF")
    assert done.stdout == ""


def test_an_object_named_twice(in_process: Run, objects: dict[str, Path]) -> None:
    done = in_process("check", *options(objects["sockops"], objects["sockops"]))
    assert done.returncode == 2
    assert "it is named twice" in done.stderr


@pytest.mark.long
def test_records_are_laid_out_as_the_object_says(testbed_command: Run, tmp_path: Path) -> None:
    """By its debug information; the difference from the profile is said. Without, the profile's holds."""
    subprocess.run(["cp", "-r", BPF, tmp_path / "bpf"], check=True)  # noqa: S607
    abi = tmp_path / "bpf/include/abi.h"
    text = abi.read_text(encoding="utf-8")
    old, new = "__u32 direction;\n\t__u32 state;", "__u32 state, direction;"
    assert old in text
    abi.write_text(text.replace(old, new), encoding="utf-8")
    other = tmp_path / "sockops.o"
    compile_object(tmp_path / "bpf/sockops.c", [tmp_path / "bpf/include"], other)
    select = ("--family", "v4", "-k", "exactly_four")
    done = testbed_command("check", *select, *options(other))
    assert done.returncode == 0, done.stdout
    said = "observe records, by the object's debug information: direction at byte 76, not 72"
    assert f"layout    {said}" in done.stdout
    subprocess.run(["llvm-strip", "-g", other], check=True)  # noqa: S607
    done = testbed_command("check", *select, *options(other))
    assert done.returncode == 1
    assert "layout " not in done.stdout
