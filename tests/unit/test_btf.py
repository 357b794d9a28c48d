"""BTF: what clang writes against offsets worked out by hand, what clang 14 cannot write, and damage."""

from __future__ import annotations

import random
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from testbed.bpf.types.btf import Btf, BtfError, parse_btf
from testbed.bpf.types.layout import Compound
from tests.unit.test_dwarf import compiled, holds_plain


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("btf")
    section = folder / "btf"
    made = compiled(folder)
    subprocess.run(["llvm-objcopy", "--dump-section", f".BTF={section}", made], check=True, timeout=60)  # noqa: S607
    return section.read_bytes()


@pytest.fixture(scope="module")
def btf(blob: bytes) -> Btf:
    return parse_btf(blob)


def test_a_struct_of_everything(btf: Btf) -> None:
    holds_plain(btf.find_struct("plain"))


def test_unions_have_every_reading(btf: Btf) -> None:
    address = btf.find_struct("address")
    assert address is not None
    data = struct.pack("<i 2HIII xxxx Q", -1, 1, 2, 3, 4, 5, 6)
    assert address.decode(data) == {
        "family": -1,
        "ip4": 0x20001,
        "ip6": [0x20001, 3, 4, 5],
        "low": 1,
        "high": 2,
        "u": {"cookie": 6, "in": {"x": 6}},
    }
    assert address.encode({"family": -1, "ip6": [0x20001, 3, 4, 5], "u": {"cookie": 6}}) == data
    assert address.encode({"high": 2}) == struct.pack("<6xH24x", 2)


def test_names(btf: Btf) -> None:
    pair = btf.find_struct("pair_t")
    assert pair is not None
    assert pair.short == "pair_t (8 bytes)"
    assert btf.find_struct("__u32") is None
    assert btf.find_struct("nothing") is None
    assert btf.find_struct("record") is None, "BTF has no structs of ring records"
    assert btf.functions() == ("prog", "helper")
    plain = btf.find_struct("plain")
    assert plain is not None
    lines = plain.describe().splitlines()
    expected = ("@74 __u8 mac[6]", "@80 __u16 grid[2][3]", "@104 struct plain *next", "@120 __be32 ip")
    assert {f"  {line}" for line in expected} <= set(lines)
    assert "    @129:4 __u64 c:40" in lines


def test_maps(btf: Btf) -> None:
    key, value = btf.map_layout("typed")
    assert (key, value) == (btf.find_struct("bits"), btf.find_struct("plain"))
    for name in ("sized", "ring", "nothing"):
        assert btf.map_layout(name) == (None, None)


def test_variables(btf: Btf) -> None:
    found = {
        (section, variable.name, variable.size, variable.type.name)
        for section, variables in btf.variables().items()
        for variable in variables
        if variable.section == section
    }
    assert found == {
        (".bss", "home", 64, "struct address[2]"),
        (".data", "levels", 8, "__u32[2]"),
        (".data", "level", 4, "__u32"),
        (".rodata", "limits", 8, "pair_t"),
        (".data.custom", "custom", 8, "__u64"),
    }


NAMES = ("int", "a", "b", ".bss", ".maps", "x", "char")


def name(text: str) -> int:
    return 1 + sum(len(before) + 1 for before in NAMES[: NAMES.index(text)]) if text else 0


def entry(kind: int, value: int = 0, *tail: int, text: str = "", flag: bool = False, vlen: int = 0) -> bytes:
    return struct.pack(f"<{3 + len(tail)}I", name(text), flag << 31 | kind << 24 | vlen, value, *tail)


def blob_of(*entries: bytes) -> bytes:
    types, names = b"".join(entries), "\0".join(("", *NAMES, "")).encode()
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names


def members(*rows: tuple[str, int, int]) -> list[int]:
    return [number for text, kind, place in rows for number in (name(text), kind, place)]


INT = entry(1, 4, 1 << 24 | 32, text="int")
(INT_KIND, POINTER, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, PROTO, VAR,
 DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64) = range(1, 20)  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "data", "value"),
    [
        ((entry(ENUM64, 8, name("a"), 1, 2, name("b"), 3, 0, text="x", vlen=2),), 2 << 32 | 1, "a"),
        ((entry(ENUM64, 8, name("a"), 0xFFFFFFFE, 0xFFFFFFFF, text="x", flag=True, vlen=1),), -2, "a"),
        ((entry(ENUM, 4, name("a"), 1 << 31, text="x", vlen=1),), 1 << 31, "a"),
        ((entry(ENUM, 4, name("a"), 0xFFFFFFFF, text="x", vlen=1),), -1, "a"),
        ((entry(ENUM, 4, name("a"), 1 << 31, text="x", flag=True, vlen=1),), -1 << 31, "a"),
        ((entry(TYPE_TAG, 2, text="x"), entry(RESTRICT, 3), INT), -5, "-5"),
        ((entry(VAR, 2, 0, text="x"), INT), 5, "5"),
    ],
)
def test_numbers_that_clang_14_does_not_write(entries: Sequence[bytes], data: int, value: str) -> None:
    kind = parse_btf(blob_of(*entries)).type(1)
    raw = data.to_bytes(kind.size, "little", signed=data < 0)
    assert kind.decode(raw) == data
    assert str(kind.decode(raw)) == value
    assert kind.encode(data) == raw


def test_types_without_a_value() -> None:
    entries = (
        entry(FWD, text="x", flag=True),
        entry(FUNC, 3, text="a", vlen=2),
        entry(PROTO),
        entry(FLOAT, 16, text="a"),
    )
    btf = parse_btf(blob_of(*entries))
    assert [btf.type(number).short for number in range(5)] == [
        "void (0 bytes)",
        "union x (0 bytes)",
        "a (0 bytes)",
        "function (0 bytes)",
        "a (16 bytes)",
    ]
    assert btf.functions() == (), "an extern function is somebody else's"


def test_bitfields_of_old_compilers() -> None:
    old = entry(1, 4, 2 << 16 | 5, text="int")  # an int of 5 bits, 2 bits further on
    btf = parse_btf(blob_of(old, entry(STRUCT, 4, *members(("a", 1, 8)), text="x", vlen=1)))
    assert btf.type(2).decode(struct.pack("<I", 21 << 10)) == {"a": 21}


SELF = entry(STRUCT, 4, *members(("a", 1, 0)), text="x", vlen=1)
DAMAGE = {
    "type 1 contains itself": (SELF,),
    "type 1 has more than 64 types within one another": [entry(CONST, at + 2) for at in range(90)],
    "there is no type 9, the last is 1": (entry(TYPEDEF, 9, text="x"),),
    "absurdly large": (entry(ARRAY, 0, 2, 2, 0xFFFFFFFF), INT),
    "absurdly large: 4294967295 bytes": (entry(STRUCT, 0xFFFFFFFF, text="x"),),
    "field a is outside of the 2 bytes": (entry(STRUCT, 2, *members(("a", 2, 0)), text="x", vlen=1), INT),
    "field a starts within a byte": (entry(STRUCT, 8, *members(("a", 2, 1)), text="x", vlen=1), INT),
    "an integer of 0 bytes": (entry(INT_KIND, 0, 0, text="int"),),
    "33 bits in 4 bytes": (entry(INT_KIND, 4, 33, text="int"),),
    "an enum of 3 bytes": (entry(ENUM, 3, text="x"),),
    "is no type but the tag x": (entry(DECL_TAG, 2, 0, text="x"), INT),
    "a pointer to more than 64 pointers": (entry(POINTER, 1),),
    "type 1 is of the unknown kind 20": (entry(20),),
    "type 1 is of the unknown kind 0": (entry(0),),
    "type 1 is cut off": (entry(STRUCT, 4, text="x", vlen=0xFFFF),),
    "a name at 4096, where the names end": (struct.pack("<III", 4096, 1 << 24, 4) + INT[12:],),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_types_that_cannot_be(message: str) -> None:
    with pytest.raises(BtfError, match=f"^read the BTF: .*{message}"):  # noqa: PT012 (either may notice)
        btf = parse_btf(blob_of(*DAMAGE[message]))
        btf.type(1)


def test_damage_of_sections() -> None:
    section = entry(DATASEC, 4, 1, 0, 8, text=".bss", vlen=1)
    with pytest.raises(BtfError, match="variable x has 8 bytes, its type int"):
        parse_btf(blob_of(entry(VAR, 2, 1, text="x"), INT, section)).variables()
    with pytest.raises(BtfError, match="type 1 is in a section, and no variable but INT"):
        parse_btf(blob_of(INT, section)).variables()
    loop = entry(DATASEC, 4, 2, 0, 8, text=".maps", vlen=1)
    with pytest.raises(BtfError, match="more than 64 typedefs"):
        parse_btf(blob_of(entry(TYPEDEF, 1, text="a"), entry(VAR, 1, 1, text="x"), loop)).map_layout("x")


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (0, b"\xeb\x9f", "it is big-endian"),
        (0, b"\0\0", "its magic is 0x0000"),
        (2, b"\2", "version 2 is not known"),
        (4, b"\0\0\0\0", r"its types \(16 bytes at 0\) are not in its"),
        (12, b"\xff\xff\xff\xff", r"its types \(4294967295 bytes at 24\) are not in its"),
        (20, b"\xff\xff\xff\xff", r"its names \(4294967295 bytes at 40\) are not in its"),
        (20, b"\0\0\0\0", "its names do not begin and end with a zero byte"),
        (41, b"\n", r"a name that is no text: '\\nnt'"),
    ],
)
def test_damage_of_the_header(at: int, new: bytes, message: str) -> None:
    data = blob_of(INT)
    with pytest.raises(BtfError, match=message):
        parse_btf(data[:at] + new + data[at + len(new) :])


@pytest.mark.parametrize("size", [0, 23])
def test_less_than_a_header(size: int) -> None:
    with pytest.raises(BtfError, match=f"{size} bytes are less than its header"):
        parse_btf(blob_of(INT)[:size])


def mutated(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(max(len(made), 1)) if chance.random() < 0.9 else chance.randrange(24)
        match chance.randrange(4):
            case 0:
                made[at : at + 1] = bytes([1 << chance.randrange(8)])
            case 1:
                made[at & ~3 : (at & ~3) + 4] = struct.pack(
                    "<I", chance.choice((0, 2**32 - 1, 2**31, at % 99))
                )
            case 2:
                del made[at : at + chance.choice((1, 4, 12, len(made)))]
            case 3:
                made[at:at] = chance.randbytes(chance.choice((1, 4, 12)))
    return bytes(made)


def look_at_everything(data: bytes) -> tuple[int, list[BtfError]]:
    """How many structs could be read and used, and the refusals."""
    good, refusals = 0, []
    try:
        btf = parse_btf(data)
    except BtfError as error:
        return 0, [error]
    asked: list[Callable[[], object]] = [btf.variables, btf.functions, lambda: btf.map_layout("typed")]
    asked += [partial(btf.type, number) for number in range(120)]
    for ask in asked:
        try:
            answer = ask()
        except BtfError as error:
            refusals.append(error)
            continue
        if isinstance(answer, Compound) and answer.size < 4096:
            answer.decode(bytes(answer.size))
            good += 1
    return good, refusals


@pytest.mark.parametrize("count", [400, pytest.param(2000, marks=pytest.mark.long)])
def test_damage_is_refused_or_harmless(blob: bytes, count: int) -> None:
    whole, _ = look_at_everything(blob)
    started = time.process_time()
    results = [look_at_everything(mutated(blob, random.Random(seed))) for seed in range(count)]  # noqa: S311
    assert time.process_time() - started < 10, "bounded, on a slow machine too"
    assert not [str(error) for _, refusals in results for error in refusals if "\n" in str(error)]
    assert sum(good == 0 for good, _ in results) > count / 10
    assert sum(good == whole for good, _ in results) > count / 10
