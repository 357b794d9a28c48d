"""Damaged objects by the thousand: a set or one clear error comes back, and nothing is left."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from testbed.bpf.elf.loader import ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.errors import TestbedError
from tests.conftest import ROOT
from tests.objects import COUNTER, compiled, compiled_all, kernel_objects, nothing_left

EACH = 520
MEMORY = 64 << 20  # a damaged size may ask for all that the machine has, and then it takes long
SMALL = {
    "variables": COUNTER
    + """
struct key { __u32 ip; __u16 port; bool inbound; char name[5]; };
enum mode { OFF, ON = 5 };
union either { __u64 whole; struct { __u32 low, high; }; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8);
	__type(key, struct key); __type(value, union either); }
table SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 2);
	__uint(key_size, 4); __uint(value_size, 16); }
each SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");
__u64 seen; enum mode mode = ON; struct key last; int numbers[3] = {1, -2, 3};
const volatile __u32 limit = 7;
__u32 other SEC(".data.other") = 3;
static __noinline int rank(struct key *key) { return key->port > limit ? numbers[key->port % 3] : mode; }
SEC("sockops") int first(struct bpf_sock_ops *skops)
{
	struct key key = { .ip = skops->remote_ip4, .port = skops->local_port };
	union either value = { .whole = ++seen };

	value.high = rank(&key);
	bpf_map_update_elem(&table, &key, &value, BPF_ANY);
	bpf_printk("seen %d", other);
	last = key;
	counted(0);
	return 1;
}
SEC("cgroup/connect4") int second(struct bpf_sock_addr *ctx)
{
	__u64 *at = bpf_ringbuf_reserve(&ring, 8, 0);

	if (at)
		bpf_ringbuf_submit(at, 0);
	counted(1);
	return 1;
}
""",
    "tail": COUNTER
    + """
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4);
	__uint(key_size, 4); __uint(value_size, 4); }
calls SEC(".maps");
SEC("sockops") int target(struct bpf_sock_ops *skops) { counted(1); return 1; }
SEC("sockops") int caller(struct bpf_sock_ops *skops)
{
	counted(0);
	bpf_tail_call(skops, &calls, 2);
	return 1;
}
SEC("xdp_own") int pass(struct xdp_md *ctx) { return XDP_PASS; }
""",
    "nested": """
struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 3);
	__type(key, __u32); __type(value, __u64); }
one SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 2);
	__type(key, __u32); __array(values, struct inner); }
outer SEC(".maps") = { .values = { [1] = &one } };
SEC("sk_skb/stream_verdict") int verdict(struct __sk_buff *skb)
{
	__u32 zero = 0;
	void *found = bpf_map_lookup_elem(&outer, &zero);

	return found && bpf_map_lookup_elem(found, &zero) ? SK_DROP : SK_PASS;
}
""",
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("objects")
    flags = ("-g", f"-I{ROOT / 'bpf/include'}")
    reference = [
        compiled(folder, name, (ROOT / f"bpf/{name}.c").read_text(encoding="utf-8"), flags)
        for name in ("sockops", "connect")
    ]
    return [path.read_bytes() for path in (*reference, *compiled_all(folder, SMALL).values())]


Parts = list[tuple[int, int]]
_TYPES = (".BTF", ".BTF.ext", ".rel.BTF", ".rel.BTF.ext")
_NO_MATTER = (".debug", ".rel.debug", ".llvm", ".comment")


def parts_of(data: bytes, what: str) -> Parts:
    """The places, as (offset, size), of the ELF's own tables, the types, the code with its relocations."""
    elf = ELFFile(io.BytesIO(data))
    sections = {
        section.name: (section["sh_offset"], section["sh_size"])
        for section in elf.iter_sections()
        if section["sh_size"]
        and section["sh_type"] != "SHT_NOBITS"
        and not section.name.startswith(_NO_MATTER)
    }
    tables = {"header": (0, 64), "sections": (elf["e_shoff"], elf["e_shnum"] * elf["e_shentsize"])}
    names = {".symtab", ".strtab"}
    chosen = {
        "tables": {**tables, **{name: place for name, place in sections.items() if name in names}},
        "types": {
            **{name: place for name, place in sections.items() if name in _TYPES},
            # where libbpf looks least: the entries themselves, behind the header, before the names
            **dict.fromkeys("abc", (sections[".BTF"][0] + 24, sections[".BTF"][1] // 3)),
        },
        "code": {name: place for name, place in sections.items() if name not in (*_TYPES, *names)},
        "anything": {**tables, **sections},
    }
    return list(chosen[what].values())


def mutant(data: bytes, parts: Parts, chance: random.Random) -> bytes:
    """One to three changes, each in one of the parts."""
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        start, size = chance.choice(parts)
        at = start + chance.randrange(size)
        word = at & ~3
        other = start + chance.randrange(size)
        length = chance.choice((4, 8, 16, 24))
        match chance.randrange(8):
            case 0:
                damaged[at] ^= 1 << chance.randrange(8)
            case 1:
                damaged[at] = chance.randrange(256)
            case 2:
                damaged[word : word + 4] = bytes(4)
            case 3:
                damaged[word : word + 4] = b"\xff" * 4
            case 4:
                number = chance.choice((1, 2, 8, 1 << 16, 0x7FFFFFFF, 0x80000000, chance.randrange(64)))
                damaged[word : word + 4] = number.to_bytes(4, "little")
            case 5:
                swapped = damaged[other : other + length], damaged[at : at + length]
                damaged[at : at + length], damaged[other : other + length] = swapped
            case 6:
                damaged[at : at + length] = damaged[other : other + length]
            case 7 if chance.random() < 0.2:
                del damaged[at:]
                break
    return bytes(damaged)


def outcome(act: Callable[[], None]) -> str:
    """What came of it. Whatever else is raised is a fault of ours."""
    try:
        act()
    except TestbedError as raised:
        error = raised
    else:
        return "set"
    assert error.why
    assert "\n" not in error.what + error.why
    assert error.exit_code in {2, 3}
    return "crash" if "crashed" in error.why else "error"


def describe(loader: ObjectLoader, path: Path) -> None:
    (info,) = loader.open([path])
    types = [kind for each in info.maps for kind in info.map_types(each.name) if kind]
    for kind in (*types, *(variable.type for variable in info.all_variables())):
        kind.describe()


def load(loader: ObjectLoader, path: Path) -> None:
    with load_objects(loader, [path]) as made:
        for failure in made.failures:
            assert failure.reason
            assert "\n" not in failure.reason
        dict(made.globals)


@pytest.mark.parametrize(
    ("what", "mutants"),
    [
        ("anything", EACH // 10),
        *(
            pytest.param(each, EACH, marks=pytest.mark.long)
            for each in ("tables", "types", "code", "anything")
        ),
    ],
)
def test_a_damaged_object(
    objects: list[bytes], what: str, mutants: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """How often libbpf crashed, in its process, is among the test's properties (``--junit-xml``)."""
    path = tmp_path / "mutant.o"
    parts = [parts_of(data, what) for data in objects]
    outcomes: Counter[str] = Counter()
    with nothing_left(), ObjectLoader(deadline=5, memory=MEMORY) as loader:
        for number in range(mutants):
            which = number % len(objects)
            chance = random.Random(f"{what} {number}")  # noqa: S311
            path.write_bytes(mutant(objects[which], parts[which], chance))
            outcomes[outcome(lambda: describe(loader, path))] += 1
            outcomes[outcome(lambda: load(loader, path))] += 1
        worker = loader.pid
        assert kernel_objects(worker) == set()
        assert len(list(Path(f"/proc/{worker}/fd").iterdir())) <= 5
    request.node.user_properties.append(("outcomes", dict(outcomes)))
    assert outcomes["set"] > mutants / 10, outcomes
    assert outcomes["error"] > mutants / 10, outcomes
