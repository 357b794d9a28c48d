"""Values of C types: offsets and bits worked out by hand, and what is refused."""

from __future__ import annotations

import json
import math
import pickle
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.bpf.types.layout import (
    Array,
    Enum,
    EnumValue,
    Field,
    Float,
    Int,
    Opaque,
    Pointer,
    Struct,
    Type,
    Union,
    aliased,
    array_of,
)

U8, U16, U32 = Int("__u8", 1), Int("__u16", 2), Int("__u32", 4)
S32, S64 = Int("int", 4, signed=True), Int("long", 8, signed=True)
CHAR = Int("char", 1, signed=True, is_char=True)
BOOL = Int("_Bool", 1, is_bool=True)
COLOR = Enum("enum color", 4, True, (("RED", 0), ("BLUE", -1), ("CRIMSON", 0)))
IPV4 = Struct("struct {…}", 8, (Field("addr", U32, 0), Field("sport", U16, 32)))
TUPLE = Union("union {…}", 16, (Field("ipv4", IPV4, 0), Field("ip6", array_of(U32, 4), 0)))
NAMELESS = Union(
    "union {…}", 4, (Field("word", U32, 0), Field("", Struct("struct {…}", 4, (
        Field("low", U16, 0), Field("high", U16, 16))), 0))
)  # fmt: skip
SESSION = Struct(
    "struct session",
    28,
    (Field("kind", S32, 0), Field("", NAMELESS, 32), Field("tuple", TUPLE, 64), Field("color", COLOR, 192)),
)


@pytest.mark.parametrize(
    ("kind", "value", "data"),
    [
        (U16, 0x1234, b"\x34\x12"),
        (S32, -2, b"\xfe\xff\xff\xff"),
        (Int("__int128", 16, signed=True), -1, b"\xff" * 16),
        (Int("unsigned __int128", 16), 1 << 127, bytes(15) + b"\x80"),
        (BOOL, True, b"\x01"),
        (CHAR, -1, b"\xff"),
        (Float("float", 4), 1.5, struct.pack("<f", 1.5)),
        (Float("double", 8), -0.1, struct.pack("<d", -0.1)),
        (COLOR, -1, b"\xff" * 4),
        (Pointer("void *", 8), 1 << 63, bytes(7) + b"\x80"),
        (Opaque("void", 2), b"ab", b"ab"),
        (array_of(CHAR, 4), b"ab\0\0", b"ab\0\0"),
        (array_of(array_of(CHAR, 2), 2), [b"ab", b"c\0"], b"abc\0"),
        (array_of(array_of(U16, 3), 2), [[1, 2, 3], [4, 5, 6]], struct.pack("<6H", 1, 2, 3, 4, 5, 6)),
        (array_of(U32, 0), [], b""),
    ],
)
def test_both_ways(kind: Type, value: object, data: bytes) -> None:
    decoded = kind.decode(data)
    assert decoded == value
    assert type(decoded) is type(value) or isinstance(decoded, EnumValue)
    assert kind.encode(value) == data


def test_enum_values_are_numbers_with_a_name() -> None:
    blue, none = COLOR.decode(b"\xff" * 4), COLOR.decode(b"\x07\0\0\0")
    assert (repr(blue), str(blue), blue) == ("BLUE", "BLUE", -1)
    assert (repr(none), none) == ("7", 7)
    assert repr(COLOR.decode(bytes(4))) == "RED", "of two names the first"
    assert repr(pickle.loads(pickle.dumps(blue))) == "BLUE"  # noqa: S301 (our own)
    assert json.dumps({"color": blue}) == '{"color": -1}'
    assert COLOR.encode("CRIMSON") == bytes(4)


def test_texts_and_bytes_are_padded() -> None:
    assert array_of(CHAR, 4).encode("ab") == array_of(CHAR, 4).encode(b"ab") == b"ab\0\0"
    assert array_of(U8, 2).encode(b"\x01\x02") == b"\x01\x02"


BITS = Struct(
    "struct bits",
    8,
    (
        Field("a", U32, 0, 3),
        Field("b", S32, 3, 5),
        Field("c", S64, 12, 40),  # over six bytes
        Field("d", BOOL, 52, 1),
        Field("e", COLOR, 53, 3),
        Field("whole", U8, 56),
    ),
)


def test_bitfields() -> None:
    number = 5 | (-3 & 31) << 3 | (-9 & (1 << 40) - 1) << 12 | 1 << 52 | 7 << 53 | 0xEE << 56
    value = {"a": 5, "b": -3, "c": -9, "d": True, "e": -1, "whole": 0xEE}
    decoded = BITS.decode(number.to_bytes(8, "little"))
    assert decoded == value
    assert "'d': True, 'e': BLUE" in repr(decoded)
    assert BITS.encode(value) == number.to_bytes(8, "little")
    assert BITS.decode((number | 15 << 8).to_bytes(8, "little")) == value, "nobody's bits are not read"


def test_structs_and_unions() -> None:
    data = struct.pack("<i HH IH10x i", -1, 1, 2, 3, 4, -1)
    assert SESSION.decode(data) == {
        "kind": -1,
        "word": 0x20001,
        "low": 1,
        "high": 2,
        "tuple": {"ipv4": {"addr": 3, "sport": 4}, "ip6": [3, 4, 0, 0]},
        "color": -1,
    }
    whole = {"kind": -1, "low": 1, "high": 2, "tuple": {"ipv4": {"addr": 3, "sport": 4}}, "color": "BLUE"}
    assert SESSION.encode(whole) == data
    assert SESSION.encode({"word": 7}) == struct.pack("<4xI20x", 7)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (SESSION, {"tuple": {"ipv4": {"sport": 70000}}},
         "tuple.ipv4.sport: 70000 does not fit in 2 bytes unsigned"),
        (SESSION, {"tuple": {"ip6": [0, 0, -1, 0]}}, "tuple.ip6[2]: -1 does not fit in 4 bytes unsigned"),
        (SESSION, {"tuple": {"ip6": [0]}}, "tuple.ip6: has 4 elements, not 1"),
        (SESSION, {"tuple": {"ip6": 5}}, "tuple.ip6: 5 is no list"),
        (SESSION, {"high": 1 << 16}, "high: 65536 does not fit in 2 bytes unsigned"),
        (SESSION, {"kid": 1}, "struct session: no field kid; it has kind, word, low, high, tuple, color"),
        (SESSION, {"tuple": {"ip5": 1}}, "tuple: no field ip5; it has ipv4, ip6"),
        (SESSION, {"tuple": {}}, "tuple: a union takes exactly one of ipv4, ip6; 0 are given"),
        (SESSION, {"tuple": {"ipv4": {}, "ip6": [0] * 4}}, "exactly one of ipv4, ip6; 2 are given"),
        (SESSION, {"word": 1, "low": 1}, "a union takes exactly one of word, low, high; 2 are given"),
        (SESSION, {"color": "PINK"}, "color: enum color has no PINK; it has RED, BLUE, CRIMSON"),
        (SESSION, [1], "struct session: [1] is no dict of fields"),
        (SESSION, {"kind": "1"}, "kind: '1' is no integer"),
        (SESSION, {"kind": 1.0}, "kind: 1.0 is no integer"),
        (BITS, {"a": 8}, "a: 8 does not fit in 3 bits unsigned"),
        (BITS, {"b": -17}, "b: -17 does not fit in 5 bits signed"),
        (BITS, {"d": 2}, "d: 2 is neither true nor false"),
        (U8, 256, "__u8: 256 does not fit in 1 byte unsigned"),
        (array_of(CHAR, 2), b"abc", "char[2]: has 2 bytes, not 3"),
        (array_of(CHAR, 2), 5, "char[2]: 5 is no bytes"),
        (Opaque("void", 1), b"", "void: has 1 byte, not 0"),
        (Float("float", 4), 1e300, "float: 1e+300 does not fit"),
        (Float("float", 4), "x", "float: 'x' does not fit"),
    ],
)  # fmt: skip
def test_what_is_refused(kind: Type, value: object, message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 (the whole text is compared)
        kind.encode(value)
    assert message in str(refusal.value)


@pytest.mark.parametrize("size", [27, 29, 0])
def test_data_of_another_size(size: int) -> None:
    with pytest.raises(ValueError, match=f"struct session: has 28 bytes, not {size}"):
        SESSION.decode(bytes(size))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Struct("s", 4, (Field("x", U32, 8),)), "field x is outside of the 4 bytes"),
        (lambda: Struct("s", 4, (Field("x", U32, 30, 3),)), "field x is outside of the 4 bytes"),
        (lambda: Struct("s", 8, (Field("x", U32, 4),)), "field x starts within a byte"),
        (lambda: Struct("s", 8, (Field("x", U32, 0, 33),)), "field x is 33 bits of __u32"),
        (lambda: Struct("s", 8, (Field("", U32, 0),)), "has no name"),
        (lambda: array_of(U32, 1 << 32), "absurdly large"),
        (lambda: array_of(Struct("s", 0, ()), 1 << 32), "absurdly large"),
        (lambda: Int("int", 17), "an integer of 17 bytes"),
        (lambda: Enum("enum e", 3), "an enum of 3 bytes"),
        (lambda: Float("float", 3), "a float of 3 bytes"),
    ],
)
def test_types_that_cannot_be(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def nested(levels: int, members: int) -> Type:
    inner: Type = U8
    for _ in range(levels):
        inner = Union("union u", 1, tuple(Field(f"m{at}", inner, 0) for at in range(members)))
    return inner


def test_types_within_types_have_an_end() -> None:
    with pytest.raises(ValueError, match="more than 64 types within one another"):
        nested(65, 1)
    with pytest.raises(ValueError, match="absurdly large"):
        nested(40, 2)


def test_where_a_field_is() -> None:
    assert SESSION.field_at("high") == (6, U16)
    assert SESSION.field_at("tuple.ipv4.sport") == (12, U16)
    assert SESSION.field_at("color") == (24, COLOR)
    for path in ("", "port", "kind.x", "tuple.ipv4.port", "tuple.", "color."):
        with pytest.raises(KeyError):
            SESSION.field_at(path)


def test_what_a_person_reads() -> None:
    assert SESSION.short == "struct session (28 bytes)"
    assert SESSION.describe("  ").splitlines() == [
        "  struct session (28 bytes)",
        "    @0 int kind",
        "    @4 union {…}",
        "      @4 __u32 word",
        "      @4 struct {…}",
        "        @4 __u16 low",
        "        @6 __u16 high",
        "    @8 union {…} tuple",
        "      @8 struct {…} ipv4",
        "        @8 __u32 addr",
        "        @12 __u16 sport",
        "      @8 __u32 ip6[4]",
        "    @24 enum color color",
    ]
    pointers = Struct("struct p", 32, (Field("at", array_of(array_of(Pointer("void *", 8), 2), 2), 0),))
    assert pointers.describe() == "struct p (32 bytes)\n  @0 void *at[2][2]"
    assert "  @1:4 long c:40" in BITS.describe()
    assert COLOR.describe() == "enum color (4 bytes)\n  RED = 0\n  BLUE = -1\n  CRIMSON = 0"


def test_a_typedef_names_numbers_and_the_nameless() -> None:
    assert aliased(U32, "__be32").name == "__be32"
    assert aliased(IPV4, "pair_t").short == "pair_t (8 bytes)"
    assert aliased(SESSION, "session_t") is SESSION


def values_of(kind: Type, bits: int | None = None) -> st.SearchStrategy[object]:
    """Every value that a type without unions can have."""
    if isinstance(kind, Struct):
        return st.fixed_dictionaries({f.name: values_of(f.type, f.bit_size) for f in kind.fields})
    if isinstance(kind, Array) and kind.element == CHAR:
        return st.binary(min_size=kind.count, max_size=kind.count)
    if isinstance(kind, Array):
        return st.lists(values_of(kind.element), min_size=kind.count, max_size=kind.count)
    if isinstance(kind, Float):
        return st.floats(width=64 if kind.size == 8 else 32).filter(lambda value: not math.isnan(value))
    if kind == BOOL:
        return st.booleans()
    assert isinstance(kind, Int | Enum)
    bits = 8 * kind.size if bits is None else bits
    low = -(1 << bits - 1) if kind.signed else 0
    return st.integers(low, low + (1 << bits) - 1)


EVERYTHING = Struct(
    "struct everything",
    104,
    (
        Field("bits", BITS, 0),
        Field("grid", array_of(array_of(S32, 3), 2), 64),
        Field("inner", array_of(BITS, 2), 256),
        Field("text", array_of(CHAR, 5), 384),
        Field("color", COLOR, 448),
        Field("wide", Int("__int128", 16, signed=True), 512),
        Field("f", Float("float", 4), 640),
        Field("d", Float("double", 8), 704),
        Field("flag", BOOL, 768),
    ),
)


@settings(derandomize=True, deadline=None)
@given(values_of(EVERYTHING))
def test_what_was_encoded_is_decoded(value: object) -> None:
    assert EVERYTHING.decode(EVERYTHING.encode(value)) == value


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, (1 << 64) - 1)), min_size=1, max_size=9))
def test_bitfields_are_the_bits_of_one_number(parts: list[tuple[int, int]]) -> None:
    fields, value, number, at = [], {}, 0, 0
    for index, (bits, part) in enumerate(parts):
        fields.append(Field(f"f{index}", Int("__u64", 8), at, bits))
        value[f"f{index}"] = part & (1 << bits) - 1
        number |= value[f"f{index}"] << at
        at += bits
    packed = Struct("struct packed", (at + 7) // 8, tuple(fields))
    assert packed.encode(value) == number.to_bytes(packed.size, "little")
    assert packed.decode(packed.encode(value)) == value
