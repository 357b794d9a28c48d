"""Stories and what is kept beside them as JSON, and back: what is read equals what was written."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from testbed.errors import UsageError
from testbed.visible import dotted_place, one_line

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # late: a run that keeps nothing has no need of it

    return TypeAdapter(kind)


def encoded(value: object) -> bytes:
    """A dataclass as JSON, in ASCII. What JSON has no word for (Infinity) is written as Python reads it."""
    kind: Any = type(value)
    # not mode="json": that puts other characters in place of a key's that are no Unicode
    return json.dumps(_adapter(kind).dump_python(value), separators=(",", ":"), default=str).encode()


def document(data: bytes, what: str) -> Any:
    """Any JSON. `UsageError` in one line, which calls it ``what``."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise UsageError(f"read {what}", f"it is no JSON: {_line(error)}") from error


def decoded(kind: type[T], data: bytes, what: str) -> T:
    """The dataclass of its JSON. `UsageError` in one line, which calls it ``what``."""
    return typed(kind, document(data, what), what)


def typed(kind: type[T], value: object, what: str) -> T:
    """The dataclass of its JSON values. `UsageError` as of `decoded`."""
    from pydantic import ValidationError

    anything: Any = kind  # a class is hashable, whatever its objects are
    try:
        found: T = _adapter(anything).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = dotted_place(first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        why = f"{place + ': ' if place else ''}{first['msg']}{more}"
        raise UsageError(f"read {what}", one_line(why)) from error
    except RecursionError as error:
        raise UsageError(f"read {what}", "it is nested too deeply") from error
    return found


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
