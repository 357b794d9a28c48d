"""Pictures of topologies: text, Mermaid, SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from testbed.cli import app
from testbed.commands.graph import graph
from testbed.errors import UsageError
from testbed.graph.mermaid import draw_mermaid
from testbed.graph.sketch import Marks
from testbed.graph.svg import draw_svg
from testbed.graph.text import draw_text
from testbed.topology.load import load_topology, shipped
from testbed.topology.model import Topology
from tests.conftest import ROOT

PAIR = """\
pair:
┌────────────────────┐               ┌────────────────────┐
│ client             ├ eth0 ─── eth0 ┤ server             │
│ eth0  10.77.0.1/24 │               │ eth0  10.77.0.2/24 │
│       fd77::1/64   │               │       fd77::2/64   │
└────────────────────┘               └────────────────────┘"""
PAIR_FAILING = """\
pair:
┌────────────────────┐               ╔════════════════════╗
│ client             ╞ eth0 ═══ eth0 ╣ server             ║
│ eth0  10.77.0.1/24 │   ✗ failing   ║ ✗ failing          ║
│       fd77::1/64   │               ║ eth0  10.77.0.2/24 ║
└────────────────────┘               ║       fd77::2/64   ║
                                     ╚════════════════════╝"""
TRIANGLE = """\
triangle:
  ┌ eth1 ───────────────────────────────────────────────────────────── eth1 ┐
  │                                                                         │
┌─┴──────────────────┐               ┌────────────────────┐               ┌─┴──────────────────┐
│ one                ├ eth0 ─── eth0 ┤ two                ├ eth1 ─── eth0 ┤ three              │
│ eth0  10.78.1.1/24 │               │ eth0  10.78.1.2/24 │               │ eth0  10.78.2.3/24 │
│       fd78:1::1/64 │               │       fd78:1::2/64 │               │       fd78:2::3/64 │
│ eth1  10.78.3.1/24 │               │ eth1  10.78.2.2/24 │               │ eth1  10.78.3.3/24 │
│       fd78:3::1/64 │               │       fd78:2::2/64 │               │       fd78:3::3/64 │
└────────────────────┘               └────────────────────┘               └────────────────────┘"""
STAR = """\
star:
       ┌────────────────────────┐
       │ hub                    │
       │ router, ● managed      │
       │ eth0  10.1.0.1/24      │
       │ br0   10.2.0.1/24      │
       │       joins eth1       │
       └────────────┬───────────┘
         ┌──────────┴──────────┐
         │ eth0                │ eth1
         │ eth0                │ eth0
         │ uplink              │
         │ MTU 1400            │
         │ delay 10ms          │
┌────────┴────────┐   ┌────────┴────────┐"""
COLUMN = """\
net:
┌───┐
│ a ├ eth1 ────┐
│   ├ eth0 ──┐ │
└───┘        │ │
             │ │
┌───┐        │ │
│ b ├ eth0 ──┘ │
│   ├ eth1 ──┐ │
└───┘        │ │
             │ │
┌───┐        │ │
│ c ├ eth0 ──┘ │
│   ├ eth1 ────┘
└───┘"""
MERMAID = """\
flowchart LR
  h0["<b>client</b><br/>eth0 10.77.0.1/24<br/>fd77::1/64"]
  h1["<b>server</b><br/>✗ failing<br/>eth0 10.77.0.2/24<br/>fd77::2/64"]
  h0 ===|"eth0 – eth0<br/>✗ failing"| h1
  classDef failing stroke:#c8332d,stroke-width:4px,stroke-dasharray:6 3
  class h1 failing
  linkStyle 0 stroke:#c8332d,stroke-dasharray:6 3"""
FAILING = Marks(frozenset({"server"}), frozenset({("server", "client")}))


def wired(links: list[tuple[str, str]], **hosts: dict[str, Any]) -> Topology:
    """Hosts and links, none of which has an address."""
    names = {name: hosts.get(name, {}) for link in links for name in link}
    ends = [[{"host": one, "addresses": []}, {"host": other, "addresses": []}] for one, other in links]
    return Topology.model_validate({"name": "net", "hosts": names, "links": ends})


def test_text() -> None:
    assert draw_text(load_topology("pair")) == PAIR
    assert draw_text(load_topology("pair"), FAILING) == PAIR_FAILING
    assert draw_text(load_topology("triangle")) == TRIANGLE
    assert draw_text(wired([("a", "b"), ("b", "c"), ("c", "a")]), width=30) == COLUMN


def test_what_is_odd_is_told() -> None:
    star = Topology.model_validate(
        {
            "name": "star",
            "hosts": {
                "hub": {"role": "router", "managed": True, "bridges": {"br0": ["10.2.0.1/24"]}},
                "a": {},
                "b": {},
            },
            "links": [
                {
                    "ends": [
                        {"host": "hub", "addresses": ["10.1.0.1/24"]},
                        {"host": "a", "addresses": ["10.1.0.2/24"]},
                    ],
                    "name": "uplink",
                    "mtu": 1400,
                    "impair": {"delay": "10ms"},
                },
                [{"host": "hub", "bridge": "br0"}, {"host": "b", "addresses": ["10.2.0.2/24"]}],
            ],
            "programs": [{"set": "reference", "at": "hub"}],
        }
    )
    drawn = draw_text(star, width=60)
    for words in ("router, ● managed", "joins eth1", "uplink", "MTU 1400", "delay 10ms"):
        assert words in drawn
    assert drawn.splitlines()[-1] == "attached to hub: the reference set"


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_one_fits_a_terminal(name: str) -> None:
    topology = load_topology(name)
    drawn = draw_text(topology, width=100)
    assert max(map(len, drawn.splitlines())) <= 100
    if len(topology.hosts) <= 8:
        assert all(f" {host} " in drawn for host in topology.hosts)
        assert all(str(interface) in drawn for end in topology.ends() for interface in end.addresses)


def test_many_alike_are_folded_but_for_what_fails() -> None:
    pairs = wired([(f"client-{number}", f"server-{number}") for number in range(1, 501)])
    drawn = draw_text(pairs, Marks(links=frozenset({("client-77", "server-77")})))
    assert "… and 497 more like client-1 – server-1" in drawn
    assert [word for word in drawn.split() if word.startswith("client-")][:3] == [
        "client-1",
        "client-2",
        "client-77",
    ]
    star = wired([("hub", f"pod-{number}") for number in range(1, 101)])
    drawn = draw_text(star, Marks(frozenset({"pod-50"})))
    assert "… and 93 more" in drawn
    assert "pod-50" in drawn
    eight = wired([("hub", f"pod-{number}") for number in range(1, 9)])
    assert "more" not in draw_text(eight)


def test_mermaid() -> None:
    assert draw_mermaid(load_topology("pair"), FAILING) == MERMAID


def test_nothing_in_a_name_means_anything() -> None:
    evil = 'a"]; click x "javascript:1" <b>&\'`end\n'
    pair = load_topology("pair")
    topology = pair.model_copy(
        update={"name": evil, "hosts": {evil: pair.hosts["client"], "server": pair.hosts["server"]}}
    )
    ends = [
        end.model_copy(update={"host": evil if end.host == "client" else end.host}) for end in pair.ends()
    ]
    link = pair.links[0].model_copy(update={"ends": tuple(ends), "name": evil})
    topology = topology.model_copy(update={"links": (link,)})
    (node,) = re.findall(r'^  h0\["<b>(.*?)</b>', draw_mermaid(topology), re.MULTILINE)
    assert re.sub(r"#\d+;", "?", node) == "a??? click x ?javascript:1? ?b????end"
    for standalone in (True, False):
        root = ET.fromstring(draw_svg(topology, standalone=standalone))  # noqa: S314 (we drew it)
        assert evil.strip() in "".join(root.itertext())
        assert root.find(".//{*}b") is None


def test_svg_is_readable_by_everybody() -> None:
    text = draw_svg(load_topology("pair"), FAILING)
    assert text == draw_svg(load_topology("pair"), FAILING)
    root = ET.fromstring(text)  # noqa: S314 (we drew it)
    assert root.get("role") == "img"
    assert root.findtext("{*}title") == "topology pair"
    described = root.findtext("{*}desc") or ""
    assert "client eth0 to server eth0 failing" in described
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("✗ failing") == 2
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "<style>" not in draw_svg(load_topology("pair"), standalone=False)


ENDS = {"right": "─┌└├┬┴┼", "left": "─┐┘┤┬┴┼", "down": "│┌┐├┤┬┼", "up": "│└┘├┤┴┼"}
WAYS = {"right": (1, 0, "left"), "down": (0, 1, "up")}


def loose_ends(drawn: str) -> Iterator[tuple[int, int, str]]:
    """Where a line leads out of a cell and none into the next, nor the words that stand on a line."""
    lines = drawn.splitlines()[1:]
    cells = {(x, y): cell for y, line in enumerate(lines) for x, cell in enumerate(line)}
    for (x, y), cell in cells.items():
        for way, (right, down, back) in WAYS.items():
            other, behind = (cells.get((x + times * right, y + times * down), " ") for times in (1, 2))
            out, into = cell in ENDS[way], other in ENDS[back]
            on_line = other == " " and behind.isalnum()
            before = cells.get((x - 1, y), " ")
            if (out and not into and not on_line) or (
                into and not out and not (cell == " " and before.isalnum())
            ):
                yield x, y, way


NAMES = [f"h{number}" for number in range(6)]


@settings(deadline=None)
@given(st.lists(st.sampled_from([*combinations(NAMES, 2)]), max_size=10), st.integers(20, 120))
def test_any_wiring_is_drawn_whole(links: list[tuple[str, str]], width: int) -> None:
    """Every host has its box, and every line begins and ends at one: no end of it hangs in the air."""
    if not links:
        return
    drawn = draw_text(wired(links), width=width)
    names = {name for link in links for name in link}
    assert sorted(re.findall(r"[│┤] (h\d) +[│├]", drawn)) == sorted(names)
    assert not [*loose_ends(drawn)]
    assert sum(drawn.count(f"eth{number}") for number in range(10)) == 2 * len(links)


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "pair.svg"
    run = CliRunner().invoke
    assert run(app, ["graph", "pair"], env={"COLUMNS": "100"}).stdout == PAIR + "\n"
    assert run(app, ["graph", "pair", "--format", "mermaid"]).stdout.startswith("flowchart LR\n")
    assert run(app, ["graph", "pair", "--format", "svg", "-o", str(file)]).stdout == ""
    assert file.read_text(encoding="utf-8") == draw_svg(load_topology("pair")) + "\n"
    with pytest.raises(UsageError, match=r"did you mean pair.*nor is there a lab"):
        graph("pear")
    with pytest.raises(UsageError, match=r"write .*No such file"):
        graph("pair", output=tmp_path / "nowhere" / "x")


def test_the_document_shows_what_is_printed() -> None:
    text = (ROOT / "docs" / "graph.md").read_text(encoding="utf-8")
    for name in ("routed", "bridge"):
        assert f"$ testbed graph {name}\n{draw_text(load_topology(name))}\n```" in text
    assert f"```mermaid\n{draw_mermaid(load_topology('pair'))}\n```" in text
    assert draw_text(load_topology("pair"), FAILING) in text
