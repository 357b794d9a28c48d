"""Bytes that were sent against bytes that came."""

from __future__ import annotations

_SHOWN = 24


def difference(seen: bytes, expected: bytes) -> str:
    """Where the two part, in one line; empty where they are the same.

    For payloads: a comparison line by line, as tests have it, takes minutes for 64 KiB.
    """
    if seen == expected:
        return ""
    pairs = zip(seen, expected, strict=False)
    at = next(
        (place for place, (one, other) in enumerate(pairs) if one != other), min(len(seen), len(expected))
    )
    there, wanted = (bytes(data[at : at + _SHOWN]).hex(" ") or "the end" for data in (seen, expected))
    return f"{len(seen)} bytes for {len(expected)}; from byte {at} on: {there}, not {wanted}"
