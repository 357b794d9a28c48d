"""`testbed inspect`: what it prints of an object that has a bit of everything."""

from __future__ import annotations

import io
import json
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from testbed.bpf.elf.file import ObjectError
from testbed.bpf.elf.needs import helper_name
from testbed.errors import ExitCode
from testbed.report.inspect import inspect_objects
from tests.conftest import Run
from tests.e2e.test_cli import NOBODY

SOURCE = r"""
typedef unsigned int __u32;
typedef unsigned long long __u64;
#define SEC(name) __attribute__((section(name), used))
#define NOINLINE __attribute__((noinline))
#define __uint(name, number) int (*name)[number]
#define __type(name, type) type *name
static void *(*lookup)(void *, const void *) = (void *)1;
static __u32 (*random)(void) = (void *)7;
static long (*flags_set)(void *, int) = (void *)59;
static long (*not_yet)(void) = (void *)9999;
extern void bpf_no_such_kfunc(void) SEC(".ksyms");
extern void bpf_weak_kfunc(void) SEC(".ksyms") __attribute__((weak));

struct key { __u64 cookie; char tag[8]; };
struct task { int pid; } __attribute__((preserve_access_index));
enum level { QUIET, LOUD = 2 };
struct { __uint(type, 1); __uint(max_entries, 9); __uint(map_flags, 1); __type(key, struct key);
	__type(value, __u32); } typed SEC(".maps");
struct { __uint(type, 9); __uint(max_entries, 9); __type(key, struct key); __type(value, struct key); }
	again SEC(".maps");
struct { __uint(type, 2); __uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 6); }
	sized SEC(".maps");
struct { __uint(type, 27); __uint(max_entries, 4096); } ring SEC(".maps");
struct { __uint(type, 13); __uint(max_entries, 2); __uint(key_size, 4); __uint(value_size, 4); }
	bare SEC(".maps");
struct inner { __uint(type, 2); __uint(max_entries, 3); __type(key, int); __type(value, __u64); };
struct { __uint(type, 12); __uint(max_entries, 2); __uint(key_size, 4); struct inner *values[]; }
	outer SEC(".maps");

struct key home = { 7, "x" };
enum level level = LOUD;
__u64 many[1000];
int quiet[2];
const volatile char greeting[] = "hello";
_Bool on = 1;

static NOINLINE __u32 deep(void) { return random() + on; }
static NOINLINE __u32 shallow(void) { return deep() + many[9] + home.cookie; }
SEC("sockops") int watch(void *ctx) { lookup(&typed, &home); return shallow() + flags_set(ctx, 1); }
SEC("xdp") int drop(struct task *ctx) { return ctx->pid + deep() + greeting[level]; }
SEC("mine") int other(void *ctx) { return not_yet() + quiet[1]; }
SEC("cgroup/connect4") int linked(void *ctx) { bpf_no_such_kfunc(); bpf_weak_kfunc(); return not_yet(); }
char _license[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where everybody may read, unlike in pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def compiled(source: str, target: Path, *options: str) -> Path:
    command = ["clang", "-target", "bpf", "-O2", *options, "-x", "c", "-c", "-", "-o", str(target)]
    subprocess.run(command, input=source, text=True, check=True)
    return target


@pytest.fixture(scope="module")
def a_bit_of_everything(folder: Path) -> Path:
    return compiled(SOURCE, folder / "all.o", "-g")


@pytest.fixture(scope="module")
def without_btf(folder: Path) -> Path:
    source = "#define SEC(name) __attribute__((section(name), used))\n__attribute__((used)) int level = 3;\n"
    return compiled(source + 'SEC("so\033ck") int p(void *c) { return level; }', folder / "plain.o")


def printed(*paths: Path) -> list[str]:
    output = io.StringIO()
    inspect_objects(paths, Console(file=output, width=100), as_json=False)
    return output.getvalue().splitlines()


def squeezed(lines: list[str]) -> list[str]:
    """With one space for many: columns are as wide as what is in them."""
    return [" ".join(line.split()) for line in lines]


@pytest.fixture(scope="module")
def lines(a_bit_of_everything: Path) -> list[str]:
    return printed(a_bit_of_everything)


@pytest.mark.parametrize(
    "row",
    [
        r"[\d,]+ bytes, license GPL, BTF yes, DWARF yes",
        r"watch sockops sock_ops a cgroup \d+",
        r"drop xdp xdp an interface \d+",
        r"other mine unspec unknown section \d+",
        r"typed hash 16 4 9 BPF_F_NO_PREALLOC",
        r"sized array 4 6 1",
        r"ring ringbuf 0 0 4096",
        r"of array: key 4, value 8, entries 3",
        r"of maps that it does not describe: load it with --inner-map bare=TYPE:KEY:VALUE:ENTRIES",
        r"many __u64\[1000\] \.bss 8000 …",
        r"quiet int\[2\] \.bss 8 \{\}",
        r"home struct key \.data 16 \{\.cookie = 7, \.tag = \"x\"\}",
        r"level enum level \.data 4 LOUD",
        r"on _Bool \.data 1 true",
        r"greeting char\[6\] \.rodata 6 \"hello\"",
    ],
)
def test_a_row(lines: list[str], row: str) -> None:
    assert [line for line in squeezed(lines) if re.fullmatch(row, line)], "\n".join(lines)


def test_layouts_are_below_their_maps_and_told_once(lines: list[str]) -> None:
    start = next(number for number, line in enumerate(lines) if line.startswith("  typed "))
    assert [line.rstrip() for line in lines[start + 1 : start + 5]] == [
        "      key    struct key (16 bytes)",
        "               @0 __u64 cookie",
        "               @8 char tag[8]",
        "      value  __u32 (4 bytes)",
    ]
    assert squeezed(lines)[start + 6 : start + 8] == [
        "key struct key (16 bytes), as in typed",
        "value struct key (16 bytes), as in typed",
    ]


def test_what_is_needed_by_whom_and_what_is_lacking(lines: list[str]) -> None:
    start = next(number for number, line in enumerate(lines) if line.startswith("what it needs of Linux "))
    assert squeezed(lines)[start + 1 :] == [
        "ok program type xdp drop",
        "ok program type sock_ops watch",
        "ok program type cgroup_sock_addr linked",
        "ok map type hash typed",
        "ok map type array sized",
        "ok map type lru_hash again",
        "ok map type array_of_maps outer",
        "ok map type hash_of_maps bare",
        "ok map type ringbuf ring",
        f"ok helper {helper_name(1)} watch",
        f"ok helper {helper_name(7)} watch, drop",  # in a subprogram of a subprogram
        f"ok helper {helper_name(59)} watch",
        "– helper helper 9999 other (cannot be asked)",
        "LACKS helper helper 9999 linked",
        "ok BTF /sys/kernel/btf/vmlinux drop, linked",
        "ok CO-RE 1 relocation drop",
        "LACKS kfunc bpf_no_such_kfunc linked",
        "this kernel lacks 2 of 17",
    ]


def test_lines_are_no_wider_than_asked(lines: list[str], folder: Path) -> None:
    assert max(map(len, lines)) <= 100
    long = compiled(f'char text[] = "{"x" * 300}";', folder / "long.o", "-g")
    assert max(map(len, printed(long))) == 100


def test_helpers_have_names_where_the_headers_are(lines: list[str]) -> None:
    if not Path("/usr/include/bpf/bpf_helper_defs.h").exists():
        pytest.skip("libbpf-dev is not installed")
    assert "ok helper bpf_sock_ops_cb_flags_set watch" in squeezed(lines)


def test_json_has_it_all(a_bit_of_everything: Path, without_btf: Path) -> None:
    output = io.StringIO()
    inspect_objects([a_bit_of_everything, without_btf], Console(file=output, width=40), as_json=True)
    found, plain = json.loads(output.getvalue())
    assert (found["file"], found["size"]) == (str(a_bit_of_everything), a_bit_of_everything.stat().st_size)
    assert [program["attach_type"] for program in found["programs"]] == [3, 37, 0, 10]
    typed, *_, outer = found["maps"]
    assert typed["key"] == "struct key (16 bytes)\n  @0 __u64 cookie\n  @8 char tag[8]"
    assert typed["flags"] == ["BPF_F_NO_PREALLOC"]
    assert outer["inner"] == {
        **{"type": "array", "key_size": 4, "value_size": 8, "max_entries": 3},
        "flags": [],
    }
    values = {variable["name"]: variable["initial"] for variable in found["globals"]}
    assert values == {
        **{"many": None, "quiet": [0, 0], "home": {"cookie": 7, "tag": "x"}},
        **{"level": 2, "on": True, "greeting": "hello"},
    }
    need = {"kind": "helper", "name": helper_name(7), "number": 7, "by": ["watch", "drop"], "present": True}
    assert need in found["needs"]
    assert (plain["btf"], plain["license"], plain["maps"]) == (False, None, [])


def test_without_btf_variables_are_bytes(without_btf: Path) -> None:
    lines = printed(without_btf)
    assert "level bytes (no BTF) .data 4 03000000" in squeezed(lines)
    assert "bytes, no license, BTF no, DWARF no" in lines[1]
    assert "\x1b" not in "".join(lines), "a section's name reached the terminal as it is"


def test_the_first_bad_object_ends_it(a_bit_of_everything: Path, folder: Path) -> None:
    (folder / "bad.o").write_bytes(a_bit_of_everything.read_bytes()[:3000])
    output = io.StringIO()
    paths = [a_bit_of_everything, folder / "bad.o", a_bit_of_everything]
    with pytest.raises(ObjectError, match="it is truncated") as caught:
        inspect_objects(paths, Console(file=output, width=100), as_json=False)
    assert caught.value.exit_code == ExitCode.USAGE
    assert output.getvalue().count("what it needs") == 1


def test_damaged_btf_is_told_with_the_file(a_bit_of_everything: Path, folder: Path) -> None:
    number, wrong = (struct.pack("<III", 0x01000000, 4, 0x01000000 | bits) for bits in (32, 64))
    damaged = folder / "damaged.o"
    damaged.write_bytes(a_bit_of_everything.read_bytes().replace(number, wrong))
    with pytest.raises(ObjectError, match=f"{damaged}: its BTF is damaged: .* 64 bits in 4 bytes"):
        printed(damaged)


def test_the_command(testbed_command: Run, in_process: Run, a_bit_of_everything: Path) -> None:
    done = testbed_command("inspect", str(a_bit_of_everything))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == printed(a_bit_of_everything)
    assert in_process("inspect", "/no/such.o").returncode == 2


def test_without_root_the_kernel_is_not_asked(testbed_command: Run, a_bit_of_everything: Path) -> None:
    done = testbed_command("inspect", str(a_bit_of_everything), prefix=NOBODY)
    assert done.returncode == 0, done.stderr
    assert "(not asked: needs root)" in done.stdout
    rows = squeezed(done.stdout.splitlines())
    assert "– program type xdp drop" in rows
    assert "ok BTF /sys/kernel/btf/vmlinux drop, linked" in rows
    assert "LACKS kfunc bpf_no_such_kfunc linked" in rows
    assert not [row for row in rows if re.match("(ok|LACKS) (program|map|helper)", row)]
