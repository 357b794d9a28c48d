"""YAML as values, with the line and column of each: read from the parser's events, within limits.

Values are those of JSON. What YAML has besides (dates, sets, tags of Python) is text, or a mistake.
Aliases and ``<<`` are as usual, but all that they add up to is counted: a file of a kilobyte could
stand for more than memory holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

DEEPEST, MOST_VALUES = 40, 200_000
_TAG = "tag:yaml.org,2002:"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml takes a tenth of the time
_LEFT_OUT = {"ends", "host"}
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Mark:
    """Line and column, counted from 1."""

    line: int
    column: int


class NotReadable(Exception):
    """What is no document at all: where, and why."""

    def __init__(self, mark: Mark, why: str) -> None:
        super().__init__(mark, why)
        self.mark = mark
        self.why = why


@dataclass(frozen=True)
class Node:
    """A value, or what makes one up: a list of nodes, or (key, key's mark, node) of a mapping."""

    mark: Mark
    value: Any = None
    items: tuple[Node, ...] | None = None
    pairs: tuple[tuple[str, Mark, Node], ...] | None = None


@dataclass
class Document:
    """What a file says, where each value and key stands, and what is wrong with it as YAML."""

    data: object = None
    root: Node = field(default_factory=lambda: Node(Mark(1, 1)))
    mistakes: list[tuple[Mark, Path, str]] = field(default_factory=list)

    def place(self, where: Path, *, at_key: bool = False) -> tuple[Mark, Path]:
        """The mark of a value, or of its key; and the path as it is in the file.

        Of a path that leads on from what the file has, the last mark that there is. A step that
        the file can leave out (``ends`` of a link, ``host`` of an end) is left out of the path too.
        """
        node, mark, path = self.root, self.root.mark, list[str | int]()
        for number, step in enumerate(where, 1):
            found = _step(node, step)
            if found is not None:
                key_mark, node = found
                mark = key_mark if at_key and number == len(where) else node.mark
                path.append(step)
            elif node.pairs is not None or step not in _LEFT_OUT:
                return mark, (*path, *where[number - 1 :])
        return mark, tuple(path)


def _step(node: Node, step: str | int) -> tuple[Mark, Node] | None:
    if node.pairs is not None:
        for key, mark, value in node.pairs:
            if key == step:
                return mark, value
    elif node.items is not None and isinstance(step, int) and step < len(node.items):
        return node.items[step].mark, node.items[step]
    return None


def read_document(text: str) -> Document:
    """`NotReadable` when it is no YAML, or more than one document."""
    made = Document()
    try:
        made.root = _Reader(made, yaml.parse(text, Loader=_LOADER)).root()
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        why = ", ".join(part for part in (error.problem, error.context) if part)
        raise NotReadable(_mark(at) if at else Mark(1, 1), f"this is no YAML: {why}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        mark = Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise NotReadable(mark, f"this is no YAML: {error.reason}") from error
    made.data = _data(made.root)
    return made


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _data(node: Node) -> object:
    if node.items is not None:
        return [_data(item) for item in node.items]
    if node.pairs is not None:
        return {key: _data(value) for key, _, value in node.pairs}
    return node.value


class _Reader:
    """Goes through the events once."""

    def __init__(self, made: Document, events: Iterator[Event]) -> None:
        self._made = made
        self._events = events
        self._anchors: dict[str, Node | None] = {}
        self._sizes: dict[int, int] = {}
        self._resolver: Any = yaml.resolver.Resolver()
        self._count = 0

    def root(self) -> Node:
        root = Node(Mark(1, 1))
        documents = 0
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise NotReadable(_mark(event.start_mark), "a second document begins: a file has one")
            elif isinstance(event, NodeEvent):
                root = self._node(event, (), 0)
        return root

    def _node(self, event: Event, path: Path, depth: int) -> Node:
        mark = _mark(event.start_mark)
        self._grow(mark, 1)
        if depth > DEEPEST:
            raise NotReadable(mark, f"more than {DEEPEST} levels deep")
        if isinstance(event, AliasEvent):
            return self._alias(event, mark, depth)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = None  # until it is whole
        before = self._count
        if isinstance(event, ScalarEvent):
            node = Node(mark, self._scalar(event, mark, path))
        elif isinstance(event, SequenceStartEvent):
            node = self._list(event, mark, path, depth)
        else:
            assert isinstance(event, MappingStartEvent)
            node = self._mapping(event, mark, path, depth)
        if anchor is not None:
            self._anchors[anchor] = node
            self._sizes[id(node)] = self._count - before + 1
        return node

    def _grow(self, mark: Mark, by: int) -> None:
        self._count += by
        if self._count > MOST_VALUES:
            raise NotReadable(mark, f"more than {MOST_VALUES} values, aliases counted as what they stand for")

    def _alias(self, event: AliasEvent, mark: Mark, depth: int) -> Node:
        name = str(event.anchor)
        node = self._anchors.get(name)
        if node is None:
            why = "stands within itself" if name in self._anchors else "is nowhere defined"
            raise NotReadable(mark, f"the alias *{name} {why}")
        self._grow(mark, self._sizes[id(node)])
        if depth + _depth(node) > DEEPEST:
            raise NotReadable(mark, f"more than {DEEPEST} levels deep")
        return node

    def _wrong(self, mark: Mark, path: Path, words: str) -> None:
        self._made.mistakes.append((mark, path, words))

    def _scalar(self, event: ScalarEvent, mark: Mark, path: Path) -> object:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        kind = tag.removeprefix(_TAG)
        if kind in {"bool", "int", "float", "null"}:
            try:
                return _CONSTRUCT[kind](event.value)
            except (ValueError, KeyError, IndexError):
                self._wrong(mark, path, f"{event.value[:50]!r} is no {kind}")
                return None
        if event.tag is not None and kind not in {"str", "!"}:
            self._wrong(mark, path, f"the tag {event.tag} means nothing here")
        return str(event.value)

    def _list(self, event: SequenceStartEvent, mark: Mark, path: Path, depth: int) -> Node:
        self._no_tag(event, mark, path, "seq")
        items: list[Node] = []
        while not isinstance(inner := next(self._events), CollectionEndEvent):
            items.append(self._node(inner, (*path, len(items)), depth + 1))
        return Node(mark, items=tuple(items))

    def _mapping(self, event: MappingStartEvent, mark: Mark, path: Path, depth: int) -> Node:
        self._no_tag(event, mark, path, "map")
        own: dict[str, tuple[Mark, Node]] = {}
        merged: dict[str, tuple[Mark, Node]] = {}
        while not isinstance(inner := next(self._events), CollectionEndEvent):
            key = self._node(inner, path, depth + 1)
            if key.pairs is not None or key.items is not None:
                self._wrong(key.mark, path, "expected a name as the key, got a list or a mapping")
                self._node(next(self._events), path, depth + 1)
                continue
            is_merge = isinstance(inner, ScalarEvent) and inner.value == "<<" and inner.implicit[0]
            name = inner.value if isinstance(inner, ScalarEvent) else str(key.value)
            value = self._node(next(self._events), (*path, name), depth + 1)
            if is_merge:
                self._merge(merged, value, key.mark, path)
            elif name in own:
                first = own[name][0].line
                self._wrong(key.mark, (*path, name), f"{name} is given twice, first in line {first}")
            else:
                own[name] = (key.mark, value)
        return Node(mark, pairs=tuple((name, *at) for name, at in {**merged, **own}.items()))

    def _merge(self, into: dict[str, tuple[Mark, Node]], value: Node, mark: Mark, path: Path) -> None:
        for each in (value,) if value.items is None else value.items:
            if each.pairs is None:
                self._wrong(mark, path, "<< takes a mapping, or a list of them")
            for name, at, inner in each.pairs or ():
                self._grow(mark, 1)
                into.setdefault(name, (at, inner))

    def _no_tag(self, event: Any, mark: Mark, path: Path, kind: str) -> None:
        if event.tag not in {None, "!", _TAG + kind}:
            self._wrong(mark, path, f"the tag {event.tag} means nothing here")


def _depth(node: Node) -> int:
    """At most DEEPEST calls deep, as every node was read within that; memory is the counted values'."""
    inner = node.items or tuple(value for _, _, value in node.pairs or ())
    return 1 + max((_depth(each) for each in inner), default=0)


def _construct(kind: str) -> Any:
    def made(text: str) -> object:
        node = yaml.ScalarNode(_TAG + kind, text)
        return getattr(yaml.constructor.SafeConstructor(), f"construct_yaml_{kind}")(node)

    return made


_CONSTRUCT = {kind: _construct(kind) for kind in ("bool", "int", "float", "null")}
