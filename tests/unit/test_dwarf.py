"""DWARF: the structs that clang writes, against offsets worked out by hand."""

from __future__ import annotations

import random
import re
import struct
import subprocess
from pathlib import Path

import pytest

from testbed.bpf.types.dwarf import struct_layouts
from testbed.bpf.types.layout import Compound
from testbed.errors import ProgramError

SOURCE = """
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef __u32 __be32;
#define SEC(name) __attribute__((section(name), used))
#define __uint(name, number) int (*name)[number]
#define __type(name, type) type *name

enum color { RED, GREEN = 5, BLUE = -1 };
enum __attribute__((packed)) tiny { FIRST = 1, LAST = 255 };
enum wide { SMALL = 1, HUGE = 0x123456789 };
typedef struct { int number; char tag[4]; } pair_t;
struct bits { __u32 a : 3; int b : 5; __u32 : 4; __u64 c : 40; _Bool d : 1; enum color e : 3; };
struct plain {
	__u8 u8; signed char s8; short s16; int s32; long s64;
	__int128 s128; unsigned __int128 u128;
	_Bool flag; float f; double d;
	enum color color; enum tiny tiny;
	char text[5]; __u8 mac[6]; __u16 grid[2][3]; char names[2][3];
	struct plain *next; int (*call)(int); const volatile __be32 ip; struct bits bits; pair_t pairs[2];
};
struct address {
	int family;
	union { __be32 ip4; __be32 ip6[4]; struct { __u16 low, high; }; };
	union { __u64 cookie; struct { __u32 x; } in; } u;
};
struct record { __u64 time; struct plain plain; struct address address; enum wide wide; };

struct { __uint(type, 1); __type(key, struct bits); __type(value, struct plain); } typed SEC(".maps");
struct { __uint(type, 1); __uint(key_size, 4); __uint(value_size, 8); } sized SEC(".maps");
struct { __uint(type, 27); __uint(max_entries, 4096); } ring SEC(".maps");
struct address home[2];
__u32 levels[2] = {1, 2};
static volatile __u32 level = 7;
const volatile pair_t limits = {1, "x"};
__u64 custom SEC(".data.custom");
__u64 elsewhere SEC("not.data");

static void *(*reserve)(void *, __u64, __u64) = (void *)131;
static void (*submit)(void *, __u64) = (void *)132;
static __attribute__((noinline)) int helper(int x) { return x * level; }

SEC("sockops") int prog(int *ctx)
{
	struct record *record = reserve(&ring, sizeof(*record), 0);

	if (!record)
		return 0;
	record->time = helper(*ctx) + limits.number + custom;
	record->wide = HUGE;
	submit(record, 0);
	return level++;
}
"""

# Of struct plain and struct bits: field, offset, bytes, value.
PLAIN = (
    ("u8", 0, b"\xff", 255),
    ("s8", 1, b"\xff", -1),
    ("s16", 2, struct.pack("<h", -2), -2),
    ("s32", 4, struct.pack("<i", -3), -3),
    ("s64", 8, struct.pack("<q", -4), -4),
    ("s128", 16, b"\xfb" + b"\xff" * 15, -5),
    ("u128", 32, bytes(15) + b"\x80", 1 << 127),
    ("flag", 48, b"\x01", True),
    ("f", 52, struct.pack("<f", 0.5), 0.5),
    ("d", 56, struct.pack("<d", -0.1), -0.1),
    ("color", 64, struct.pack("<i", -1), -1),
    ("tiny", 68, b"\xff", 255),
    ("text", 69, b"text\0", b"text\0"),
    ("mac", 74, bytes(range(6)), [0, 1, 2, 3, 4, 5]),
    ("grid", 80, struct.pack("<6H", 1, 2, 3, 4, 5, 6), [[1, 2, 3], [4, 5, 6]]),
    ("names", 92, b"ab\0cd\0", [b"ab\0", b"cd\0"]),
    ("next", 104, struct.pack("<Q", 1 << 63), 1 << 63),
    ("call", 112, struct.pack("<Q", 9), 9),
    ("ip", 120, b"\x0a\0\0\x01", 0x0100000A),
    ("bits", 128, (5 | 29 << 3 | 77 << 12 | 1 << 52 | 7 << 53).to_bytes(8, "little"),
     {"a": 5, "b": -3, "c": 77, "d": True, "e": -1}),
    ("pairs", 136, struct.pack("<i4si4s", -6, b"p\0\0\0", 7, b"q\0\0\0"),
     [{"number": -6, "tag": b"p\0\0\0"}, {"number": 7, "tag": b"q\0\0\0"}]),
)  # fmt: skip


def plain_bytes() -> bytes:
    data = bytearray(160)
    for _, offset, part, _ in PLAIN:
        data[offset : offset + len(part)] = part
    return bytes(data)


def holds_plain(kind: Compound | None) -> None:
    """The struct plain that was read is the one of the table, in both directions."""
    assert kind is not None
    value = kind.decode(plain_bytes())
    assert value == {name: expected for name, _, _, expected in PLAIN}
    assert kind.encode(value) == plain_bytes()
    assert [kind.field_at(name)[0] for name, *_ in PLAIN] == [offset for _, offset, *_ in PLAIN]
    assert "'flag': True" in repr(value)
    assert "'color': BLUE, 'tiny': LAST" in repr(value)


def compiled(folder: Path, *flags: str) -> Path:
    """The object of the source above."""
    source, made = folder / "x.c", folder / "x.o"
    source.write_text(SOURCE, encoding="utf-8")
    command: list[str | Path] = ["clang", "-target", "bpf", "-O2", "-g", "-c", *flags, source, "-o", made]
    subprocess.run(command, check=True, timeout=60)
    return made


NAMES = ("record", "plain", "bits", "pair_t", "nothing", "__u32", "color")


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_structs_of_every_version(version: int, tmp_path: Path) -> None:
    found = struct_layouts(compiled(tmp_path, f"-gdwarf-{version}"), NAMES)
    assert set(found) == {"record", "plain", "bits", "pair_t"}
    holds_plain(found["plain"])
    assert found["pair_t"].short == "pair_t (8 bytes)"
    record = found["record"]
    assert record.short == "struct record (224 bytes)"
    assert [record.field_at(path)[0] for path in ("plain", "address.ip6", "address.high")] == [16, 180, 182]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("dwarf"))


def test_a_ring_record(made: Path) -> None:
    record = struct_layouts(made, ["record"])["record"]
    data = struct.pack("<Q8x 160s i2HIII4xQ Q8x", 1, plain_bytes(), -1, 1, 2, 3, 4, 5, 6, 0x123456789)
    value = record.decode(data)
    assert (value["time"], str(value["wide"])) == (1, "HUGE")
    assert value["plain"] == {name: expected for name, _, _, expected in PLAIN}
    assert value["address"] == {
        "family": -1,
        "ip4": 0x20001,
        "ip6": [0x20001, 3, 4, 5],
        "low": 1,
        "high": 2,
        "u": {"cookie": 6, "in": {"x": 6}},
    }


def test_the_description_says_what_btf_says(made: Path) -> None:
    described = struct_layouts(made, ["record"])["record"].describe().splitlines()
    for line in (
        "  @0 __u64 time",
        "  @16 struct plain plain",
        "    @32 __int128 s128",
        "    @136 __be32 ip",
    ):
        assert line in described
    assert "    @128 function *call" in described
    assert "    @120 struct plain *next" in described


def test_without_dwarf(made: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.o"
    subprocess.run(["llvm-objcopy", "--strip-debug", made, bare], check=True, timeout=60)  # noqa: S607
    assert struct_layouts(bare, NAMES) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "read the DWARF of x.o: ELF"),
        (b"no object", "read the DWARF of x.o: ELFError: Magic number does not match"),
        (b"\x7fELF\2\2\1".ljust(64, b"\0"), "read the DWARF of x.o: ValueError: it is big-endian"),
        (None, "read the DWARF of x.o: ENOENT .No such file"),
    ],
)
def test_what_is_no_object(data: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ProgramError, match=message):
        struct_layouts(path, NAMES)


def test_a_struct_within_itself(tmp_path: Path) -> None:
    text = compiled(tmp_path, "-S").read_text(encoding="utf-8")
    pointer, const = 0x0F, 0x26  # DW_TAG_…: `struct plain *next` becomes `const struct plain next`
    assembly, count = re.subn(rf"\.byte\t{pointer}\b(.*DW_TAG_pointer_type)", rf".byte\t{const}\1", text)
    assert count
    (tmp_path / "x.s").write_text(assembly, encoding="utf-8")
    command: list[str | Path] = ["clang", "-target", "bpf", "-c", tmp_path / "x.s", "-o", tmp_path / "x.o"]
    subprocess.run(command, check=True, timeout=60)
    with pytest.raises(ProgramError, match="more than 64 types within one another"):
        struct_layouts(tmp_path / "x.o", ["plain"])


def test_a_name_that_is_no_text(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(made.read_bytes().replace(b"\0pair_t\0", b"\0pa\nr_t\0"))
    with pytest.raises(ProgramError, match=r"a name that is no text: 'pa\\nr_t'"):
        struct_layouts(path, NAMES)


def test_damage_is_one_line_or_harmless(made: Path, tmp_path: Path) -> None:
    data, path = made.read_bytes(), tmp_path / "x.o"
    refused = []
    for seed in range(100):
        chance = random.Random(seed)  # noqa: S311
        damaged = bytearray(data)
        for _ in range(8):
            damaged[chance.randrange(64, len(data))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            struct_layouts(path, NAMES)
        except ProgramError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert not [text for text in refused if "\n" in text]
