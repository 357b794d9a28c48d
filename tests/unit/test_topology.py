"""Topologies: what is shipped, and what is wrong with others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from testbed.errors import UsageError
from testbed.lab.topology import load_topology


def test_the_pair() -> None:
    pair = load_topology("pair")
    assert list(pair.hosts) == ["client", "server"]
    assert set(pair.neighbours("client")) == {"server"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: x\nhosts: {a: {}}\nlinks: [[{host: a, addresses: []}, {host: b, addresses: []}]]",
            "b, which is no host",
        ),
        ("name: x\nhosts: {a: {gateway: b}, b: {}}", "gateway b, to which no link"),
        (
            "name: x\nhosts: {a: {}, b: {}}\n"
            "links: [[{host: a, addresses: [10.0.0.1/24]}, {host: b, addresses: [10.0.0.1/24]}]]",
            "10.0.0.1 is given twice: to a and b",
        ),
        ("name: x\nhosts: {a: {gatway: b}}", r"hosts\.a\.gatway: Extra inputs"),
        ("name: x\nhosts: {'../a': {}}", "should match pattern"),
        (
            "name: x\nhosts: {a: {}}\n"
            "links: [[{host: a, addresses: [10.0.0.300/24]}, {host: a, addresses: []}]]",
            "IPv4",
        ),
        ("hosts: {}", "name: Field required"),
        ("- 1", "the whole: Input should be"),
        ("a: [", "YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_topology(path)
    assert str(path) in str(caught.value)
    assert re.search(message, str(caught.value))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match=r"(?s)no such file.*shipped ones: .*pair"):
        load_topology("pear")
