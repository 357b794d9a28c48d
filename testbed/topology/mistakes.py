"""What pydantic found wrong, in words for who wrote the file: what was expected there, and what was meant."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from testbed.topology.fields import shown
from testbed.topology.model import Topology
from testbed.topology.positions import Document, Mark, Path
from testbed.topology.suggest import did_you_mean, listed
from testbed.visible import visible

_KEY = "[key]"  # pydantic's last step to a key that is wrong


@dataclass(frozen=True)
class Located:
    """A mistake in a file: its line and column from 1, the path in the document, and what was expected."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(
            part for part in (f"{self.file}:{self.line}:{self.column}", self.path, self.message) if part
        )

    def as_dict(self) -> dict[str, object]:
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "message": self.message,
        }


def located(file: str, mark: Mark, path: Path, message: str) -> Located:
    return Located(file, mark.line, mark.column, dotted(path), visible(message))


def dotted(path: Path) -> str:
    """``links[0].ends[1].host``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{visible(step)}" for step in path)
    return "".join(steps).lstrip(".")


def of_error(file: str, document: Document, line: ErrorDetails) -> Located:
    """Where in the file a mistake is, and the words for it."""
    where = tuple(step for step in line["loc"] if step != _KEY)
    at_key = line["type"] == "extra_forbidden" or _KEY in line["loc"]
    mark, path = document.place(where, at_key=at_key)
    return located(file, mark, path, words(line, where))


def words(line: ErrorDetails, where: Path) -> str:
    """What is wrong, in words."""
    given = line["input"]
    match line["type"]:
        case "extra_forbidden":
            known = fields_at(where[:-1])
            said = f"there is no such field{did_you_mean(where[-1], known)} (fields: {', '.join(known)})"
        case "missing":
            said = "is missing"
        case "literal_error":
            known = re.findall(r"'([^']*)'", str(line.get("ctx", {}).get("expected", "")))
            said = f"expected {listed(known)}, got {shown(given)}{did_you_mean(given, known)}"
        case "model_type" | "dict_type":
            said = f"expected {_mapping_of(where)}, got {_kind(given)}"
        case "tuple_type" | "list_type":
            said = f"expected a list, got {_kind(given)}"
        case "topology":
            said = line["msg"]
        case _:
            said = f"{line['msg'].replace('Input should be', 'expected')}, got {shown(given)}"
    return said


def _mapping_of(where: Path) -> str:
    known = fields_at(where)
    return f"a mapping ({', '.join(known)})" if known else "a mapping of names"


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else shown(value)


def fields_at(where: Path) -> list[str]:
    """The fields of the model at a path; empty where there is another kind of value."""
    kind: Any = Topology
    for step in where:
        model = _model(kind)
        if model is not None:
            if step not in model.model_fields:
                return []
            kind = model.model_fields[str(step)].annotation
        else:
            kind = _inner(kind)
    model = _model(kind)
    return list(model.model_fields) if model else []


def _bare(kind: Any) -> Any:
    """Without what is said about a type, and without None."""
    while get_origin(kind) in {Annotated, Union, types.UnionType}:
        kind = next((each for each in get_args(kind) if each is not type(None)), None)
    return kind


def _model(kind: Any) -> type[BaseModel] | None:
    kind = _bare(kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _inner(kind: Any) -> Any:
    """What a list or a mapping is of."""
    kind = _bare(kind)
    arguments = get_args(kind)
    if not arguments:
        return None
    return arguments[1] if get_origin(kind) is dict else arguments[0]
