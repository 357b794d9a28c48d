"""What is read out of the verifier's logs.

The logs in ``verifier_logs`` are those of kernels 5.10, 6.1, 6.18 and 7.3 on small programs that they
rejected: ``CASE-KERNEL.log``, as libbpf (in one case bcc) printed them.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from testbed.bpf.verifier import VerifierReport, parse_verifier_log, processed_insns

LOGS = Path(__file__).parent / "verifier_logs"
NULL = "invalid mem access 'map_value_or_null'"
BOUNDS = (
    "invalid access to map value, value_size=64 off=1020 size=4; "
    "R0 max value is outside of the allowed memory range"
)
SOCKET = "R2 type=sock_or_null expected=sock_common, sock, tcp_sock, xdp_sock, ptr_"
HELPER = "program of this type cannot use helper bpf_xdp_adjust_head#44"
TOO_LARGE = "BPF program is too large. Processed 1000001 insn"
MEMORY = "R1 invalid mem access 'mem_or_null'"
ARGUMENT = "arg#0 type is not a struct; Arg#0 type PTR in first() is not supported yet."
LEAK = (
    "Unreleased reference id=2 alloc_insn=5; BPF_EXIT instruction in main prog would lead to reference leak"
)
STORAGE = "5: (85) call bpf_sk_storage_get#107"
ADJUST = "1: (85) call bpf_xdp_adjust_head#44"
VALUE = "map_value_or_null(id=1,map=counts,ks=4,vs=64)"
LOAD_1 = "1: (61) r0 = *(u32 *)(r1 +0)"
LOAD_7 = "7: (61) r1 = *(u32 *)(r0 +0)"
LOAD_FIRST = "7: (61) r0 = *(u32 *)(r1 +0)"
LOAD_13 = "13: (61) r1 = *(u32 *)(r0 +0)"
LOAD_14 = "14: (61) r0 = *(u32 *)(r1 +0)"
LOAD_21 = "21: (61) r0 = *(u32 *)(r1 +0)"
CALLED = "at 9: (85) call pc+4 | return first(count) & skops->op;"

# log, reason, line, instruction, a register ("R7?": nothing is known of it), instructions processed
READ: list[tuple[str, str, int | None, str, str, int]] = [
    ("unchecked_map_value-5.10", f"R0 {NULL}", None, LOAD_7, "R0?", 7),
    ("unchecked_map_value-6.18", f"R0 {NULL}", 7, LOAD_7, f"R0={VALUE}", 7),
    ("unchecked_map_value-7.3", f"R0 {NULL}", 7, LOAD_7, "fp-8=0000????", 7),
    ("bcc_map_value-6.18", f"R0 {NULL}", 19, LOAD_7, "R10=fp0", 7),
    ("out_of_bounds-5.10", BOUNDS, None, LOAD_13, "R1=inv(id=0,umax_value=1020,var_off=(0x0; 0x3fc))", 13),
    ("out_of_bounds-6.1", BOUNDS, None, LOAD_13, "R1=scalar(umax=1020,var_off=(0x0; 0x3fc))", 13),
    ("out_of_bounds-6.18", BOUNDS, 10, LOAD_13, "R6=ctx()", 13),
    ("out_of_bounds-7.3", BOUNDS, 10, LOAD_13, "R6=ctx()", 13),
    ("unchecked_socket-6.18", f"{SOCKET}, trusted_ptr_", 5, STORAGE, "R2=sock_or_null(id=1)", 5),
    ("unchecked_socket-7.3", f"{SOCKET}, trusted_ptr_", 5, STORAGE, "R2=sock_or_null(id=1)", 5),
    ("uninitialised_register-6.18", "R7 !read_ok", 6, "0: (bf) r0 = r7", "R7?", 1),
    ("uninitialised_register-7.3", "R7 !read_ok", 6, "0: (bf) r0 = r7", "R1=ctx()", 1),
    ("helper_not_allowed-5.10", "unknown func bpf_xdp_adjust_head#44", None, ADJUST, "R2?", 2),
    ("helper_not_allowed-6.18", HELPER, 4, ADJUST, "R2=4", 2),
    ("helper_not_allowed-7.3", HELPER, 4, ADJUST, "R2=4", 2),
    ("infinite_loop-5.10", "infinite loop detected at insn 2", None, "2: (05) goto pc-1", "R1=inv1", 9),
    ("infinite_loop-6.18", "infinite loop detected at insn 2", 6, "2: (05) goto pc-1", "R1=1", 9),
    ("too_complex-6.18", TOO_LARGE, 6, "7: (67) r4 <<= 32", "R4=0x1e848", 1_000_001),
    ("stack_too_large-6.18", "combined stack size of 2 calls is 640. Too large", None, "", "R10?", 96),
    ("subprogram-5.10", f"R1 {NULL}", None, LOAD_14, "R1=map_value_or_null(id=1,off=0,ks=4,vs=64,imm=0)", 10),
    ("subprogram-6.18", f"R1 {NULL}", 4, LOAD_14, "R6?", 10),
    ("subprogram-7.3", f"R1 {NULL}", 4, LOAD_14, "R10=fp0", 10),
    ("branch_in_subprogram-5.10", "R1 invalid mem access 'inv'", None, LOAD_21, "R1?", 17),
    ("global_function-5.10", ARGUMENT, None, "", "R1?", 0),
    ("global_function-7.3", MEMORY, 4, LOAD_FIRST, "R1=mem_or_null(id=1,sz=4)", 8),
    ("unreachable-6.18", "unreachable insn 2", None, "", "R1?", 0),
    ("unreachable-7.3", "unreachable insn 2", 4, "2: (b7) r0 = 1", "R1?", 0),
    ("unreleased_record-7.3", LEAK, 11, "10: (95) exit", "R0=1", 10),
    ("no_line_info-7.3", "R1 invalid mem access 'scalar'", None, LOAD_1, "R10=fp0", 2),
]  # fmt: skip

# log, C line, function, calls that lead there
PLACES = [
    ("unchecked_map_value-5.10", "*count += 1;", "", ()),
    ("subprogram-5.10", "return count[0] & 1;", "", (CALLED,)),
    ("subprogram-6.18", "return count[0] & 1;", "", (CALLED,)),
    ("subprogram-7.3", "return count[0] & 1;", "first", (CALLED,)),
    ("global_function-5.10", "", "first", ()),
    ("unreachable-7.3", 'asm volatile("r0 = 0\\nexit\\nr0 = 1\\n");', "prog", ()),
    ("no_line_info-7.3", "", "", ()),
]  # fmt: skip

BEGIN, END = "libbpf: prog 'x': -- BEGIN PROG LOAD LOG --\n", "-- END PROG LOAD LOG --\n"

# Logs in full, and their reasons
WORDS = [
    ("", "the verifier said nothing"),
    ("\n\0", "the verifier said nothing"),
    ("libbpf: prog 'x': BPF program load failed: Permission denied\n", "the verifier said nothing"),
    ("0: R1=ctx() R10=fp0\n0: (b7) r0 = 0\n1: (9", "the log ends before the verifier's reason"),
    ("0: (95) exit\nfrom 1 to 3: safe\nprocessed 1 insns (limit 1000000)\n", "the verifier gave no reason"),
    ("R0 !read_ok\nverification time 9 usec\nstack depth 8\nprocessed 1 insns\n", "R0 !read_ok"),
    ("R0 !read_ok\nprocessed 1 insns\nError: failed to load object file\n", "R0 !read_ok"),
    ("mark_precise: frame0: last_idx 3\nback-edge from insn 5 to 3\n", "back-edge from insn 5 to 3"),
    ("last_idx 3 first_idx 0\nregs=2 stack=0 before 1: (b7) r1 = 0\nR0 bad\n", "R0 bad"),
    ("The sequence of 8193 jumps is too complex.\n", "The sequence of 8193 jumps is too complex."),
    ("func#0 @0\nunknown opcode 8d\nprocessed 0 insns\n", "unknown opcode 8d"),
    ("Func#1 ('first') is global and assumed valid.\nR0 bad\n", "R0 bad"),
    ("Live regs before insn:\n      0: .1........ (b7) r0 = 0\nunreachable insn 7\n", "unreachable insn 7"),
    ("1: (05) goto pc+9\nR1 old news\n\nfrom 3 to 7: R0=1 R10=fp0\nnew\n", "new"),
    ("one\ntwo\nthree\nfour\n", "two; three; four"),
    ("bpf: Failed to load program: Invalid argument\nunreachable insn 7\n", "unreachable insn 7"),
    (f"R9 before\n{BEGIN}R1 bad\n{END}R9 between\n{BEGIN}R2 bad\n{END}R9 behind\n", "R2 bad"),
    ("\x1b[2Jnonsense\n", "�[2Jnonsense"),
    ("Verification failed: Policy\n\nReason:\n  It is\n  so.\n", "It is so."),
    ("Verification failed: Policy\n\nReas", "Reas"),
]


def read(name: str) -> VerifierReport:
    return parse_verifier_log((LOGS / f"{name}.log").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "reason", "line", "instruction", "register", "processed"), READ)
def test_what_a_log_tells(
    name: str, reason: str, line: int | None, instruction: str, register: str, processed: int
) -> None:
    report = read(name)
    assert (report.reason, report.line, report.processed) == (reason, line, processed)
    assert report.instruction == instruction
    if register.endswith("?"):
        assert register[:-1] not in dict(report.registers)
    else:
        assert tuple(register.split("=", 1)) in report.registers


def test_every_log_is_in_the_table() -> None:
    assert {row[0] for row in READ} == {path.stem for path in LOGS.glob("*.log")}


@pytest.mark.parametrize(("name", "code", "function", "calls"), PLACES)
def test_where_it_stood(name: str, code: str, function: str, calls: tuple[str, ...]) -> None:
    report = read(name)
    assert (report.code, report.function, report.call_chain) == (code, function, calls)


@pytest.mark.parametrize(("log", "reason"), WORDS)
def test_the_last_word(log: str, reason: str) -> None:
    assert parse_verifier_log(log).reason == reason


def test_the_kernels_own_report() -> None:
    report = read("helper_not_allowed-7.3")
    assert report.problem == "Policy: Operation is not allowed"
    assert report.explanation.endswith(" is not allowed: this program type does not allow the helper.")
    assert report.suggestion.startswith("Use a helper allowed for this program type, or move")


STATES = [
    ("0: (bf) r1 = r6 ; R1_w=ctx(off=0,imm=0) R6=ctx(off=0,imm=0)\n1: (95) exit\n", "R1=ctx(off=0,imm=0)"),
    ("1: R1=ctx() R10=fp0\n1: (b7) r1 = 1\n2: (95) exit\n", ""),  # changed, the new value untold
    ("1: R1=ctx() R10=fp0\n1: (61) r1 = *(u32 *)(r1 +9)\ninvalid bpf_context access\n", "R1=ctx()"),
    ("1: R1=1 R2=2 R10=fp0\n1: (85) call bpf_ktime_get_ns#5 ; R0=scalar()\n2: (95) exit\n", ""),
    ("1: R1=1 R10=fp0\nfrom 3 to 7: R0=1 R10=fp0\n7: (95) exit\n", ""),
    ("1: R1=1 R10=fp0\nfrom 3 to 7 (speculative execution): R1=2 R10=fp0 fp-16=map_ptr\n", "R1=2"),
    ("callee:\n frame1: R1=1 R10=fp0\nreturning from callee:\n frame1: R1=1\nto caller at 5:\n R1=2\n",
     "R1=2"),
    ("4: (b7) r1 = 2\n5: R1=2\n5: (95) exit\n", "R1=2"),  # level 2 of old kernels
    (" R1=pkt(id=0,off=14,r=14,umax_value=60,var_off=(0x0; 0x3c)) R10=fp0 refs=2\n",
     "R1=pkt(id=0,off=14,r=14,umax_value=60,var_off=(0x0; 0x3c))"),
]  # fmt: skip


@pytest.mark.parametrize(("log", "r1"), STATES)
def test_what_is_known_of_a_register(log: str, r1: str) -> None:
    value = dict(parse_verifier_log(log).registers).get("R1")
    assert (f"R1={value}" if value else "") == r1


ONCE = "9: (85) call pc+4\ncallee:\n frame1: R1=1\nreturning from callee:\nto caller at 10:\n R0=1\n"
AGAIN = "10: (85) call pc+3\ncallee:\n frame1: R1=1 R10=fp0\n"
CALLERS = [
    ("14: (61) r0 = *(u32 *)(r1 +0)\n", ("at 10: (85) call pc+3",)),
    ("from 15 to 17: frame1: R1=1 R10=fp0\n", ()),  # by which of both is not told
    ("returning from callee:\n frame1: R1=1\nto caller at 11:\n R0=1 R10=fp0\n", ()),
]


@pytest.mark.parametrize(("behind", "calls"), CALLERS)
def test_who_called(behind: str, calls: tuple[str, ...]) -> None:
    assert parse_verifier_log(ONCE + AGAIN + behind).call_chain == calls


def test_a_checked_function_is_left_behind() -> None:
    checked = "Validating first() func#1...\n0: (bf) r0 = r7\n"
    assert parse_verifier_log(checked).function == "first"
    assert not parse_verifier_log(checked + "Func#1 is safe for any args that match its prototype\n").function


def test_the_instruction_that_the_reason_names() -> None:
    log = "; a(); @ x.c:3\n1: (05) goto pc+0\n; b(); @ x.c:4\n2: (05) goto pc-2\n1: safe\n"
    report = parse_verifier_log(log + "infinite loop detected at insn 1\n")
    assert (report.instruction, report.code) == ("1: (05) goto pc+0", "a();")
    assert parse_verifier_log("5: while (1) @ x.c:3\nback-edge from insn 5 to 5\n").code == "while (1)"


def test_a_line_that_the_compiler_made_up() -> None:
    report = parse_verifier_log("; a(); @ x.c:3\n;  @ x.c:0\n1: (07) r1 += -4\nR1 bad\n")
    assert (report.code, report.line) == ("a();", 3)
    assert parse_verifier_log("; a(); @ x.c:0\n1: (07) r1 += -4\n").line is None


def test_libbpfs_words_in_the_place_of_an_instruction() -> None:
    report = parse_verifier_log(
        "4: (bf) r1 = r6\n5: <invalid CO-RE relocation>\nfailed to resolve <byte_off>\n"
    )
    assert report.instruction == "5: <invalid CO-RE relocation>"
    assert report.reason == "failed to resolve <byte_off>"


def test_the_text_quotes_the_source(tmp_path: Path) -> None:
    source = tmp_path / "subprogram.c"
    source.write_text("one\ntwo\nthree\nfour\nfive\n", encoding="utf-8")
    sources = [tmp_path / "other.c", tmp_path / "none" / source.name, source]
    assert read("subprogram-7.3").lines(sources).splitlines() == [
        "R1 may be NULL here (a nullable map value pointer). The program could dereference NULL on this",
        "path, so the verifier cannot prove this access is safe.",
        f"{source}:4:",
        "    3 | three",
        "    4 | four",
        "    5 | five",
        "at 14: (61) r0 = *(u32 *)(r1 +0) (instructions processed: 10)",
        "R1 = map_value_or_null(id=1,map=counts,ks=4,vs=64)",
        "others: R10=fp0",
        f"in first(), called {CALLED}",
        "the kernel suggests: Add a NULL check before the access and dereference the pointer only on the",
        "non-NULL path.",
    ]  # fmt: skip


def test_the_text_quotes_the_log_where_there_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "out_of_bounds.c").write_text("too short\n", encoding="utf-8")
    lines = read("out_of_bounds-6.18").lines([tmp_path / "out_of_bounds.c"]).splitlines()
    assert lines[:2] == ["out_of_bounds.c:10:", "   10 | count[port] += 1;"]
    assert lines[3].startswith("R0 = map_value(")  # of the reason and the instruction
    assert lines[4].startswith("R1 = scalar(")
    assert lines[5] == "others: R6=ctx R10=fp0 fp-8=0000????"
    assert read("out_of_bounds-5.10").lines().splitlines()[0] == "count[port] += 1;"


@pytest.mark.parametrize("path", sorted(LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_the_text_is_short(path: Path, tmp_path: Path) -> None:
    report = read(path.stem)
    source = tmp_path / (report.file or "none")
    source.write_text("line\n" * 30, encoding="utf-8")
    lines = report.lines([source]).splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= max(96, len(f"{source}:99:"))


SHOWN = [
    ("1: (85) call x#1", "invalid read from stack R9 off -12+0 size 8", ["fp-16 = 0", "others: R1=1 R2=2"]),
    ("1: (63) *(u32 *)(r10 -4) = r1", "bad", ["R1 = 1", "fp-8 = ctx()", "others: R2=2"]),
    ("1: (bf) r1 = r2", "R3 is bad", ["R3 = 3", "R1 = 1", "others: R2=2"]),
    ("1: (bf) r2 = r2", "bad", ["R2 = 2", "others: R1=1"]),
    ("1: (95) exit", "bad", ["registers: R1=1 R2=2"]),
]


@pytest.mark.parametrize(("instruction", "reason", "rows"), SHOWN)
def test_what_is_spoken_of_comes_first(instruction: str, reason: str, rows: list[str]) -> None:
    state = "1: R1=1 R2=2 R3=3 R10=fp0 fp-8=ctx() fp-16=0"
    lines = parse_verifier_log(f"{state}\n{instruction}\n{reason}\n").lines().splitlines()
    assert lines[1:-1] == rows[:-1]
    assert lines[-1].startswith(rows[-1])


def test_nothing_is_said_twice() -> None:
    assert parse_verifier_log("Verification failed: Policy\n\nReason:\n  It is so.\n").lines() == ""


def test_the_instruction_count() -> None:
    assert processed_insns("processed 12 insns (limit 1000000) max_states_per_insn 0\n") == 12
    assert processed_insns("BPF program is too large. Processed 131073 insn\n") == 131073
    assert processed_insns("R1 processed 12 insns") is None


def test_a_huge_log_is_read_from_its_end() -> None:
    log = "0: R9=9\n" + "0: (b7) r0 = 0 ; R0=0\n" * 1_000_000
    report = parse_verifier_log(f"{log}{TOO_LARGE}\n")
    assert (report.processed, report.registers) == (1000001, (("R0", "0"),))
    assert parse_verifier_log(f"7: (15) if r0 goto pc+7 {TOO_LARGE}\n").reason == TOO_LARGE


def mutated(generator: random.Random, text: str) -> str:
    start, end = sorted(generator.randrange(len(text) + 1) for _ in range(2))
    noise = "".join(generator.choice("\0\n\x1b():;=\u0661\ud800\u2028") for _ in range(9))
    return generator.choice((
        text[start:],
        text[:end],
        text[:start] + text[end:],
        text[:end] + text[start:],
        "\n".join(generator.sample(text.split("\n"), text.count("\n"))),
        text[:start] + noise + text[start:],
        text.replace("0", "9" * 5000),
    ))  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_no_log_is_too_broken(seed: int) -> None:
    generator = random.Random(seed)  # noqa: S311  not for secrets
    paths = sorted(LOGS.glob("*.log"))
    for _ in range(50):
        log = mutated(generator, generator.choice(paths).read_text(encoding="utf-8"))
        report = parse_verifier_log(log)
        assert len(report.reason.splitlines()) == 1, log
        assert len(report.lines().splitlines()) <= 12, log
        processed_insns(log)
