"""Names are looked at before they reach the kernel, a file or a command: none can mean anything else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from testbed.bpf.elf.words import parse_inner_map, parse_tail_call
from testbed.commands.labs import parse_counts
from testbed.errors import TestbedError, UsageError
from testbed.keeper.hold import free_name
from testbed.keeper.words import is_name, valid_name
from testbed.topology.fields import DeviceName, LinkName, Name, SysctlName, SysctlValue
from testbed.topology.impair import impair_spec

Given = TypeVar("Given")
Result = TypeVar("Result")
ODD = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "-rf",
    "--",
    "a b",
    "a\nb",
    "a\0b",
    "A",
    "é",
    "a\u202eb",
    "\x1b[31m",
    "a" * 200,
]
ODD += [
    "$(x)",
    "`x`",
    "a;b",
    "a%d",
    "*",
    "~",
    "lo",
    "all",
    "default",
    "eth0",
    "net",
    "a-",
    "x" * 15,
    "x" * 16,
]
TEXTS = st.one_of(
    st.sampled_from(ODD),
    st.text(max_size=40),
    st.from_regex(r"[a-z0-9./ -]{0,40}", fullmatch=True),
)
some = settings(deadline=None)  # a machine that is loaded takes longer
LONGEST = {Name: 31, DeviceName: 15, LinkName: 71}  # IFNAMSIZ is 16 with its NUL


@pytest.mark.parametrize("kind", LONGEST, ids=["host, cgroup, lab", "device", "link"])
@some
@given(text=TEXTS)
def test_a_name_is_of_few_letters(kind: Any, text: str) -> None:
    try:
        taken = TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return
    assert taken == text
    assert re.fullmatch(r"[a-z][a-z0-9-]*", text)
    assert len(text) <= LONGEST[kind]
    if kind is DeviceName:
        assert text not in {"lo", "all", "default", "eth0"}


@some
@given(text=TEXTS)
@example("a" * 31)
def test_a_lab_is_called_by_such_a_name(text: str) -> None:
    assert is_name(text) is bool(re.fullmatch(r"[a-z][a-z0-9-]{0,30}", text))
    if not is_name(text):
        with pytest.raises(UsageError) as caught:
            valid_name(text)
        assert one_line(caught.value)


@pytest.mark.parametrize("text", ODD)
def test_odd_names_are_none(text: str) -> None:
    fits = bool(re.fullmatch(r"[a-z][a-z0-9-]{0,30}", text))
    assert is_name(text) is fits
    try:
        TypeAdapter(Name).validate_python(text)
    except ValidationError:
        fits = not fits
    assert fits


@some
@given(text=TEXTS)
def test_a_lab_that_is_held_has_such_a_name(text: str) -> None:
    """It is made of a test's, which can hold anything."""
    assert is_name(free_name(text))


@some
@given(text=st.one_of(TEXTS, st.from_regex(r"net(\.[a-z./-]{0,5}){0,4}", fullmatch=True)))
@example("net.ipv4.../../../kernel.core_pattern")
@example("net.ipv4/tcp_mem")
@example("kernel.core_pattern")
def test_a_sysctl_is_one_of_the_network(text: str) -> None:
    try:
        TypeAdapter(SysctlName).validate_python(text)
    except ValidationError:
        return
    path = text.replace(".", "/")
    assert path.startswith("net/")
    assert not {"", ".", ".."} & set(path.split("/"))
    assert re.fullmatch(r"[A-Za-z0-9_/-]+", path)


@some
@given(text=TEXTS)
def test_a_sysctls_value_is_one_line(text: str) -> None:
    try:
        assert not set(TypeAdapter(SysctlValue).validate_python(text)) & set("\n\0")
    except ValidationError:
        return


def one_line(error: TestbedError) -> bool:
    """Whether what is wrong is on one line, and the advice on the other one."""
    first, *rest = str(error).split("\n")
    return first.isprintable() and len(rest) <= 1 and all(each.isprintable() for each in rest)


def tried(act: Callable[[Given], Result], given: Given) -> tuple[Result | None, UsageError | None]:
    """What an act returns, or how it refuses."""
    try:
        return act(given), None
    except UsageError as error:
        return None, error


WORDS = st.one_of(
    TEXTS,
    st.tuples(
        st.sampled_from(["delay", "jitter", "loss", "rate", "reorder", "duplicate", "x"]),
        st.sampled_from(["=", "", "=="]),
        st.one_of(st.from_regex(r"-?\d{1,30}(\.\d{1,5})?", fullmatch=True), TEXTS),
        st.sampled_from(["ms", "%", "mbit", "s", "", "ns", "x"]),
    ).map("".join),
)


@some
@given(words=st.lists(WORDS, max_size=3))
@example(["delay=99999999999999999999999s"])
@example(["rate=" + "9" * 5000 + "gbit"])
@example(["loss=\u0661%"])
def test_what_impairs_a_link_is_understood_or_refused(words: list[str]) -> None:
    spec, error = tried(impair_spec, words)
    assert error is None or one_line(error)
    if spec is None:
        return
    netem = spec.netem()
    assert 0 <= netem.delay_ns < 1 << 63
    assert 0 <= netem.rate_bits < 1 << 64
    assert 0 <= netem.loss <= 100


@pytest.mark.parametrize("parse", [parse_tail_call, parse_inner_map, lambda text: parse_counts([text])])
@some
@given(text=st.one_of(TEXTS, st.from_regex(r"[a-z]{0,3}[:=][0-9a-z:=-]{0,12}", fullmatch=True)))
def test_words_of_options_are_understood_or_refused(parse: Callable[[str], object], text: str) -> None:
    _, error = tried(parse, text)
    assert error is None or one_line(error)


@some
@given(what=st.text(), why=st.text(), fix=st.text())
def test_no_name_in_a_message_is_obeyed_by_a_terminal(what: str, why: str, fix: str) -> None:
    text = str(UsageError(what, why, fix))
    assert all(each.isprintable() or each in "\n\t" for each in text)
    assert "\n" not in str(UsageError(what, "", ""))
