"""A topology as Mermaid draws it: in Markdown of many forges, and in its own live editor."""

from __future__ import annotations

from testbed.graph.sketch import Edge, Marks, Node, sketch
from testbed.topology.model import Topology

# What has a meaning within quotes of a label, or in HTML there: Mermaid's own entities (#35; is #).
_SPECIAL = {ord(character): f"#{ord(character)};" for character in "#&<>\"'`;\\[]{}()|%"}


def draw_mermaid(topology: Topology, marks: Marks | None = None) -> str:
    """A flowchart, without a line end behind it. What fails has a thick dashed frame or line, and says so."""
    drawn = sketch(topology, marks or Marks())
    # words of the language, such as end, can be names of hosts
    ids = {name: f"h{number}" for number, name in enumerate(drawn.nodes)}
    lines = ["flowchart LR"]
    lines += [f"  {_node(ids[name], node)}" for name, node in drawn.nodes.items()]
    lines += [f"  {ids[edge.a]} {_edge(edge)} {ids[edge.b]}" for edge in drawn.edges]
    lines += [f'  n{number}>"{_escaped(note)}"]' for number, note in enumerate(drawn.notes)]
    if failing := [ids[name] for name, node in drawn.nodes.items() if node.failing]:
        lines.append("  classDef failing stroke:#c8332d,stroke-width:4px,stroke-dasharray:6 3")
        lines.append(f"  class {','.join(failing)} failing")
    lines += [
        f"  linkStyle {number} stroke:#c8332d,stroke-dasharray:6 3"
        for number, edge in enumerate(drawn.edges)
        if edge.failing
    ]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return " ".join(text.split()).translate(_SPECIAL)


def _node(identifier: str, node: Node) -> str:
    (_, name), *others = node.lines
    words = "<br/>".join([f"<b>{_escaped(name)}</b>", *(_escaped(text) for _, text in others)])
    return f'{identifier}("{words}")' if node.stands_for else f'{identifier}["{words}"]'


def _edge(edge: Edge) -> str:
    names = " – ".join(filter(None, (edge.a_name, edge.b_name)))
    words = "<br/>".join(_escaped(word) for word in (names, *edge.notes) if word)
    line = "===" if edge.failing else "---"
    return f'{line}|"{words}"|' if words else line
