"""The JSON Schema of a topology's file, for editors."""

from __future__ import annotations

from typing import Any

from testbed.topology.model import Topology

DIALECT = "http://json-schema.org/draft-07/schema#"  # the one that editors know


def json_schema() -> dict[str, Any]:
    """As a dict; every field of every part has a description."""
    schema: dict[str, Any] = _strict(Topology.model_json_schema())
    return {"$schema": DIALECT, **schema, "title": "Topology of a testbed lab"}


def _strict(schema: Any) -> Any:
    """Names that do not match are mistakes to an editor too."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(each) for name, each in schema.items()}
    return {**made, "additionalProperties": False} if "patternProperties" in made else made
