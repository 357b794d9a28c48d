"""Damage to files, for Hypothesis: bytes that are others or missing, JSON and YAML with one thing changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import yaml
from hypothesis import strategies as st

_KINDS = ("changed", "cut", "more", "inserted", "doubled", "left out")
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["../../etc/passwd", "/etc/passwd", "\x1b[31m", "a\nb", "-rf", "x" * 5000, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """The same bytes, but for one place or two."""
    data = whole
    for _ in range(draw(st.integers(1, 2))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(begin + draw(st.sampled_from([1, 8, 400])), len(data))))
        extra = draw(st.binary(min_size=1, max_size=12))
        data = {
            "changed": data[:begin] + extra + data[begin + len(extra) :],
            "cut": data[:begin],
            "more": data + extra,
            "inserted": data[:begin] + extra + data[begin:],
            "doubled": data[:end] + data[begin:],
            "left out": data[:begin] + data[end:],
        }[draw(st.sampled_from(_KINDS))]
    return data


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from _places(each, (*path, key))


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """A document in which one place has another value, is missing, or has something beside it."""
    path = draw(st.sampled_from(list(_places(value))))
    if not path:
        return draw(ANYTHING)
    made = copy.deepcopy(value)
    at = made
    for step in path[:-1]:
        at = at[step]
    action = draw(st.sampled_from(["other", "missing", "more"]))
    if action == "other":
        at[path[-1]] = draw(ANYTHING)
    elif action == "missing":
        del at[path[-1]]
    elif isinstance(at, dict):
        at[draw(st.text(max_size=6))] = draw(ANYTHING)
    else:
        at.append(draw(ANYTHING))
    return made


def damaged_json(value: Any) -> st.SearchStrategy[bytes]:
    """A JSON document that is altered, or whose text is damaged."""
    return altered(value).map(lambda each: json.dumps(each).encode()) | damaged_bytes(
        json.dumps(value).encode()
    )


def damaged_yaml(text: str) -> st.SearchStrategy[bytes]:
    """The same of YAML."""
    return altered(yaml.safe_load(text)).map(
        lambda each: yaml.safe_dump(each, allow_unicode=True).encode(errors="surrogatepass")
    ) | damaged_bytes(text.encode())
