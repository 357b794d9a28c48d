"""What may be written in more than one way, as pydantic and JSON Schema are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class NothingIs:
    """``hosts: {client: }``: YAML reads a value that is left out as null, which stands for ``empty``."""

    empty: object

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def given(value: object) -> object:
            return self.empty if value is None else value

        return core_schema.no_info_before_validator_function(given, handler(source))

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(core), {"type": "null"}]}

    def __hash__(self) -> int:
        return hash(type(self))


def either(short: dict[str, Any], *, items: str = "") -> Any:
    """A model's ``__get_pydantic_json_schema__``: the mapping, or a short form.

    ``items`` is the field of the mapping whose items those of the short form, a list, are like.
    """

    def schema(_model: type, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        whole = handler(core)
        target = handler.resolve_ref_schema(whole)
        mapping = dict(target)
        named = dict(short)
        if items:
            like = mapping["properties"][items]
            # as one schema for both: editors know older dialects, without prefixItems
            like["items"] = like.pop("prefixItems")[0]
            named["items"] = like["items"]
        target.clear()
        target.update({"anyOf": [mapping, named], "title": mapping["title"]})
        return whole

    made: Callable[..., JsonSchemaValue] = schema
    return classmethod(made)
