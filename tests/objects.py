"""Small C programs as BPF objects, for the tests of the loader; and what is left of them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from testbed.bpf.libbpf import object_ids
from testbed.bpf.types.layout import Value
from tests.host import OF_OTHER_TESTS

HEAD = """
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
"""
GPL = 'char _license[] SEC("license") = "GPL";\n'
COUNTER = """
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); }
count SEC(".maps");
static __always_inline void counted(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&count, &which);

	if (value)
		__sync_fetch_and_add(value, 1);
}
"""
# What runs at every socket() of a lab, which is the quickest way to run a program.
AT_SOCKET = 'SEC("cgroup/sock_create") int %s(struct bpf_sock *ctx)\n'
TEXTS = {
    "one": COUNTER
    + "__u64 mine_one; int number = 1; const volatile __u32 limit = 1;"
    + 'volatile int apart SEC(".data.apart") = 1;'
    + AT_SOCKET % "put"
    + "{ counted(0); mine_one += number; if (limit == 7) counted(3); return apart != 0; }",
    "two": COUNTER
    + "__u64 mine_two, seen; int number = 2; const volatile __u32 limit = 1;"
    + 'int seen_apart; volatile int apart SEC(".data.apart") = 2;'
    + AT_SOCKET % "look"
    + """
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&count, &zero);

	if (value)
		seen = *value;
	mine_two += number;
	seen_apart = apart;
	return 1;
}
"""
    + AT_SOCKET % "put"
    + "{ counted(2); return 1; }",
    "other": """
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u32); }
count SEC(".maps");
"""
    + AT_SOCKET % "other"
    + "{ __u32 zero = 0; return bpf_map_lookup_elem(&count, &zero) ? 1 : 0; }",
    "sections": COUNTER
    + AT_SOCKET % "bad"
    + """
{
	__u32 five = 5;
	__u64 *value = bpf_map_lookup_elem(&count, &five);

	*value += 1;
	return 1;
}
SEC("no/such") int nothing(void *ctx) { return 0; }
SEC("socket") int filter(struct __sk_buff *ctx) { return 0; }
SEC("xdp_foo") int own(struct xdp_md *ctx) { return XDP_PASS; }
SEC("tcx/egress") int out(struct __sk_buff *ctx) { return 0; }
SEC("tc") int in(struct __sk_buff *ctx) { return 0; }
"""
    + AT_SOCKET % "good"
    + "{ counted(0); return 1; }",
    "nested": """
struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 3);
	__type(key, __u32); __type(value, __u64); };
struct inner one SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 2);
	__type(key, __u32); __array(values, struct inner); } outer SEC(".maps") = { .values = { [1] = &one } };
"""
    + AT_SOCKET % "walk"
    + """
{
	__u32 one = 1;
	__u64 *value;
	void *found = bpf_map_lookup_elem(&outer, &one);

	value = found ? bpf_map_lookup_elem(found, &one) : 0;
	if (value)
		*value += 1;
	return 1;
}
""",
    "vague": """
struct { __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS); __uint(max_entries, 2); __uint(key_size, 4);
	__uint(value_size, 4); } outer SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __uint(key_size, 4);
	__uint(value_size, 4); } small SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 5); __uint(key_size, 8);
	__uint(value_size, 16); } large SEC(".maps");
""",
    "calls": COUNTER
    + """
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4); __uint(key_size, 4);
	__uint(value_size, 4); } calls SEC(".maps");
SEC("sockops") int called(struct bpf_sock_ops *skops) { counted(1); return 1; }
SEC("sockops") int caller(struct bpf_sock_ops *skops)
{
	counted(0);
	bpf_tail_call(skops, &calls, 2);
	counted(3);
	return 1;
}
"""
    + AT_SOCKET % "stranger"
    + "{ return 1; }",
    "maps": """
struct key { __u32 ip; __u16 port; bool inbound; };
struct value { __u64 hits; __s32 last; char name[4]; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, struct key);
	__type(value, struct value); } table SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 2); __type(key, __u32);
	__type(value, struct value); } each SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __uint(key_size, 8);
	__uint(value_size, 8); } sized SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_SOCKHASH); __uint(max_entries, 4); __type(key, struct key);
	__type(value, __u64); } sockets SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_SK_STORAGE); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, int);
	__type(value, struct value); } storage SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME); } testbed_pinned SEC(".maps");
"""
    + AT_SOCKET % "visit"
    + """
{
	struct key key = { .ip = 7, .port = 80, .inbound = true };
	struct value *value = bpf_map_lookup_elem(&table, &key), *mine;
	__u32 one = 1;

	if (value) {
		value->hits++;
		value->last = -1;
	}
	value = bpf_map_lookup_elem(&each, &one);
	if (value)
		value->hits++;
	mine = bpf_sk_storage_get(&storage, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (mine)
		mine->last = -5;
	return 1;
}
""",
    "slow": """
int sum;
"""
    + AT_SOCKET % "slow"
    + """
{
	int total = 0;

	for (int i = 0; i < 4000; i++) {
		asm volatile("" : "+r"(total));
		total += i;
	}
	sum = total;
	return 1;
}
""",
}
_INCLUDE = ("-idirafter", f"/usr/include/{platform.machine()}-linux-gnu")
_IDS = re.compile(r"^(prog|map|link)_id:\s*(\d+)", re.MULTILINE)


# C type, what stands behind the name, initial value in C, the same in Python, another value
VARIABLES: tuple[tuple[str, str, str, Value, Value], ...] = (
    ("__u8", "", "255", 255, 1),
    ("__u16", "", "65535", 65535, 2),
    ("__u32", "", "0", 0, 2**32 - 1),
    ("__u64", "", "~0ull", 2**64 - 1, 2**63),
    ("__s8", "", "-1", -1, -128),
    ("__s32", "", "-2", -2, 2**31 - 1),
    ("__s64", "", "-3", -3, -(2**63)),
    ("bool", "", "true", True, False),
    ("enum mode", "", "ON", 5, 0),
    ("struct point", "", "{1, -1}", {"x": 1, "y": -1}, {"x": -7, "y": 8}),
    ("__u16", "[3]", "{1, 2, 3}", [1, 2, 3], [9, 8, 7]),
    ("char", "[4]", '"ab"', b"ab\0\0", b"wxyz"),
    ("struct point", "[2]", "{{1}, {2}}", [{"x": 1, "y": 0}, {"x": 2, "y": 0}], [{"x": 3, "y": 4}] * 2),
)


def variables_text() -> str:
    """For each type a variable that the program copies into another one, and a counter beside a knob."""
    places = list(enumerate(VARIABLES))
    return "\n".join(
        [
            "enum mode { OFF, ON = 5 }; struct point { int x, y; }; volatile __u64 ticks, knob;",
            *(
                f"{kind} in{n}{array} = {first}; {kind} out{n}{array};"
                for n, (kind, array, first, *_) in places
            ),
            AT_SOCKET % "copy" + "{ ",
            *(f"__builtin_memcpy(&out{n}, &in{n}, sizeof(in{n}));" for n, _ in places),
            "__sync_fetch_and_add(&ticks, 1); return 1; }",
        ]
    )


def compiled(
    folder: Path, name: str, text: str, flags: Sequence[str] = ("-g",), *, target: str = "bpf"
) -> Path:
    """Compiles a text to ``folder/name.o``; the source stays beside it."""
    source, made = folder / f"{name}.c", folder / f"{name}.o"
    source.write_text(text, encoding="utf-8")
    command = ["clang", "-target", target, "-O2", "-Wall", "-Wno-unused-function", *flags, *_INCLUDE]
    command += ["-c", str(source), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{name}.c does not compile:\n{done.stderr}"
    return made


def compiled_all(folder: Path, texts: Mapping[str, str]) -> dict[str, Path]:
    """Compiles texts side by side, each behind `HEAD` and `GPL`; objects by name."""
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda name: compiled(folder, name, HEAD + GPL + texts[name]), texts)
        return dict(zip(texts, made, strict=True))


def kernel_objects(pid: int | str = "self") -> set[str]:
    """The programs, maps and links that a process holds by descriptors: ``prog 7``, ``link 3``."""
    found: set[str] = set()
    for path in list(Path(f"/proc/{pid}/fdinfo").iterdir()):
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        found.update(f"{kind} {number}" for kind, number in _IDS.findall(text))
    return found


def on_the_machine() -> set[str]:
    """Every program, map and link there is, whoever has it."""
    return {f"prog {number}" for number in object_ids("prog")}.union(
        (f"map {number}" for number in object_ids("map")), (f"link {number}" for number in object_ids("link"))
    )


def workers() -> list[int]:
    """The loaders' processes that this process has."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    return [
        int(each)
        for each in children
        if b"testbed.bpf.elf.worker" in Path(f"/proc/{each}/cmdline").read_bytes()
    ]


def _held() -> Counter[str]:
    """What this process has open, by kind; its loaders' processes, and what is pinned."""
    found: Counter[str] = Counter()
    for path in list(Path("/proc/self/fd").iterdir()):
        try:
            target = str(path.readlink())
        except FileNotFoundError:
            continue
        found[target.partition("[")[0] if target.startswith(("socket", "pipe")) else target] += 1
    found["workers"] = len(workers())
    pins = [str(path) for path in Path("/sys/fs/bpf").iterdir()]
    found.update(f"pin {path}" for path in pins if not OF_OTHER_TESTS.search(path))
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Holds a block to giving back what it takes: descriptors, loaders' processes, pins.

    All else is owned by descriptors; that a loader's process has none left is for the block to ask.
    """
    before = _held()
    yield
    after = _held()
    assert after == before, f"left: {after - before}; gone: {before - after}"
