"""`testbed load`: a line a program, and why one was rejected."""

from __future__ import annotations

import io
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from testbed.bpf.elf.loader import LoadOptions
from testbed.bpf.elf.words import parse_inner_map, parse_tail_call
from testbed.errors import ExitCode, UsageError
from testbed.report.load import load_report
from tests.conftest import Run
from tests.e2e.test_cli import NOBODY

HEAD = r"""
#define SEC(name) __attribute__((section(name), used))
#define __uint(name, number) int (*name)[number]
static void *(*lookup)(void *, const void *) = (void *)1;
static long (*tail_call)(void *, void *, unsigned) = (void *)12;
struct { __uint(type, 1); __uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4); }
	counts SEC(".maps");
struct { __uint(type, 3); __uint(max_entries, 2); __uint(key_size, 4); __uint(value_size, 4); }
	calls SEC(".maps");
struct { __uint(type, 12); __uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4); }
	outer SEC(".maps");
struct inner { __uint(type, 2); __uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4); };
struct { __uint(type, 12); __uint(max_entries, 1); __uint(key_size, 4); struct inner *values[]; }
	described SEC(".maps");
char _license[] SEC("license") = "GPL";
"""
GOOD = """
SEC("sockops") int watch(void *ctx) { tail_call(ctx, &calls, 1); return 1; }
SEC("sockops") int look(void *ctx)
{
	int key = 0;
	int *inner = lookup(&outer, &key), *count = inner ? lookup(inner, &key) : 0;

	return count ? count[2] & 1 : 0;
}
"""
BAD = """
SEC("cgroup/connect4") int count(void *ctx)
{
	int key = 0;
	int *number = lookup(&counts, &key);

	*number += 1;
	return 1;
}
SEC("cgroup/connect4") int watch(void *ctx) { return 1; }
"""
OUTER = {"outer": (2, 4, 12, 1)}


@dataclass(frozen=True)
class Objects:
    """Two objects: all programs of the first can be loaded, of the second one of two."""

    good: Path
    bad: Path


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    folder = tmp_path_factory.mktemp("objects")
    for name, source in (("good", GOOD), ("bad", BAD), ("empty", "")):
        (folder / f"{name}.c").write_text(HEAD + source, encoding="utf-8")
        command = ["clang", "-target", "bpf", "-O2", "-g", "-c", f"{name}.c", "-o", f"{name}.o"]
        subprocess.run(command, check=True, cwd=folder)
    return Objects(folder / "good.o", folder / "bad.o")


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where logs are kept; not a person's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "sockops-testbed/log"


def loaded(
    *paths: Path, options: LoadOptions | None = None, with_logs: bool = False
) -> tuple[ExitCode, list[str]]:
    """The exit code and the lines, with one space for many."""
    output = io.StringIO()
    console = Console(file=output, width=100)
    options = options or LoadOptions(inner_maps=OUTER)
    code = load_report(paths, options, console, with_logs)
    return code, [" ".join(line.split()) for line in output.getvalue().splitlines()]


def test_programs_that_load(objects: Objects) -> None:
    code, (watch, look, last) = loaded(objects.good)
    assert code == ExitCode.PASSED
    assert re.fullmatch(r"ok watch sockops \d+ insns processed \d+", watch)
    assert re.fullmatch(r"ok look sockops \d+ insns processed \d+", look)
    assert last == "2 programs loaded"


def test_an_object_without_programs(objects: Objects) -> None:
    assert loaded(objects.good.with_name("empty.o")) == (ExitCode.PASSED, ["0 programs loaded"])


def test_a_rejected_program(objects: Objects, logs: Path) -> None:
    code, lines = loaded(objects.bad)
    assert code == ExitCode.FAILED
    assert lines[0].startswith("FAIL count cgroup/connect4 EACCES (Permission denied): R0 invalid mem access")
    source = objects.bad.with_suffix(".c")
    at = source.read_text(encoding="utf-8").splitlines().index("\t*number += 1;") + 1
    assert f"{source}:{at}:" in lines
    assert f"{at} | *number += 1;" in lines
    assert any(line.startswith("R0 = map_value_or_null") for line in lines)
    log = logs / "verifier-count.log"
    assert f"the verifier's log is in {log}" in lines
    assert "call bpf_map_lookup_elem" in log.read_text(encoding="utf-8")
    assert lines[-2].startswith("ok watch cgroup/connect4 2 insns")
    assert lines[-1] == "1 of 2 programs was rejected"


def test_several_objects_and_the_logs_of_all(objects: Objects, logs: Path) -> None:
    code, lines = loaded(objects.good, objects.bad, with_logs=True)
    assert code == ExitCode.FAILED
    assert lines[0] == str(objects.good)
    assert str(objects.bad) in lines
    assert lines[-1] == "1 of 4 programs was rejected"
    assert {path.name for path in logs.iterdir()} == {
        *("verifier-watch.log", "verifier-look.log", "verifier-count.log"),
        "verifier-watch#2.log",  # of the same name in another object
    }
    assert "0: " in (logs / "verifier-look.log").read_text(encoding="utf-8")


def test_programs_that_are_left_out(objects: Objects) -> None:
    code, lines = loaded(objects.bad, options=LoadOptions(skip=("count",)))
    assert (code, lines[0], lines[-1]) == (0, "– count cgroup/connect4 left out", "1 program loaded")
    code, lines = loaded(objects.bad, options=LoadOptions(only=("watch",)))
    assert (code, lines[-1]) == (0, "1 program loaded")


def test_tail_calls(objects: Objects) -> None:
    options = LoadOptions(inner_maps=OUTER, tail_calls=(("calls", 1, "look"),))
    code, lines = loaded(objects.good, options=options)
    assert (code, lines[-2]) == (0, "ok tail call calls:1=look")
    options = LoadOptions(tail_calls=(("calls", 1, "count"),))
    code, lines = loaded(objects.bad, options=options)
    assert (code, lines[-2]) == (1, "– tail call calls:1=count the program was not loaded")
    with pytest.raises(UsageError, match=r"calls:2=watch\b.*E2BIG"):
        loaded(objects.bad, options=LoadOptions(tail_calls=(("calls", 2, "watch"),)))


def test_the_shape_of_inner_maps_matters(objects: Objects) -> None:
    code, lines = loaded(objects.good, options=LoadOptions(inner_maps={"outer": (2, 4, 4, 1)}))
    assert (code, lines[-1]) == (1, "1 of 2 programs was rejected")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            LoadOptions(only=("nobody",)),
            "--program nobody: .* a program; there are: watch, look",
        ),
        (LoadOptions(skip=("nobody",)), "--skip nobody: no object has such a program"),
        (LoadOptions(inner_maps={"counts": (2, 4, 4, 1)}), "--inner-map counts: .*; there are: outer$"),
        (LoadOptions(tail_calls=(("counts", 0, "watch"),)), "--tail-call counts: .*; there are: calls"),
        (
            LoadOptions(tail_calls=(("calls", 0, "nobody"),)),
            "--tail-call nobody: .* such a program",
        ),
    ],
)
def test_names_that_no_object_has(objects: Objects, options: LoadOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loaded(objects.good, options=options)


def test_options_as_they_are_written() -> None:
    assert parse_tail_call("calls:0=look") == ("calls", 0, "look")
    assert parse_inner_map("outer=array:4:1300:1") == ("outer", (2, 4, 1300, 1))
    assert parse_inner_map("outer=BPF_MAP_TYPE_HASH:4:8:16") == ("outer", (1, 4, 8, 16))
    assert parse_inner_map("outer=99:0:0:0") == ("outer", (99, 0, 0, 0))


@pytest.mark.parametrize(
    "text", ["", "calls", "calls:look", "calls:x=y", "calls:-1=look", "calls:0=", ":0=x"]
)
def test_what_is_no_tail_call(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--tail-call {text!r}: it is not MAP:INDEX=PROGRAM")):
        parse_tail_call(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not MAP=TYPE:KEY:VALUE:ENTRIES"),
        ("outer=array:4:4", "it is not MAP=TYPE:KEY:VALUE:ENTRIES"),
        ("outer=array:4:x:1", "it is not MAP=TYPE:KEY:VALUE:ENTRIES"),
        ("outer=tree:4:4:1", "'tree' is no type of maps"),
        ("outer=hash:4:4:4294967296", "numbers up to 4294967295"),
    ],
)
def test_what_is_no_inner_map(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_inner_map(text)


def test_the_command(testbed_command: Run, in_process: Run, objects: Objects) -> None:
    done = testbed_command(
        *("load", str(objects.good), str(objects.bad), "--skip", "count"),
        *("--inner-map", "outer=array:4:12:1", "--tail-call", "calls:1=look"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tail call calls:1=look" in done.stdout
    assert done.stdout.splitlines()[-1] == "3 programs loaded"
    assert in_process("load", str(objects.bad), "--program", "count").returncode == 1
    assert in_process("load", str(objects.bad), "--program", "nobody").returncode == 2


def test_the_command_needs_root(testbed_command: Run, objects: Objects) -> None:
    done = testbed_command("load", str(objects.bad), prefix=NOBODY)
    assert done.returncode == 3
    assert "cannot load the objects: it needs root" in done.stderr
