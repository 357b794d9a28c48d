"""Versions of kernel packages: their order, and the series that they are of."""

from __future__ import annotations

import re

_PARTS = re.compile(r"(\D*)(\d*)")
_SERIES = re.compile(r"(\d+)\.(\d+)")


def _letters(text: str) -> tuple[int, ...]:
    # "~" is before the end of the text, letters before all else (Debian policy 5.6.12)
    weights = tuple(-1 if c == "~" else ord(c) if c.isalpha() else ord(c) + 256 for c in text)
    return (*weights, 0)


def _part_key(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    pairs = tuple((_letters(letters), int(digits or 0)) for letters, digits in _PARTS.findall(text))
    return pairs or (((0,), 0),)


def version_key(version: str) -> tuple[object, ...]:
    """Sorts versions as dpkg does (``7.3~rc7-1`` before ``7.3-1``)."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch), _part_key(upstream), _part_key(revision)


def upstream(version: str) -> str:
    """The kernel's own version in a package's: ``6.12.107`` of ``6.12.107-1~deb12u1``, ``7.3~rc7``."""
    return version.partition(":")[2].rpartition("-")[0] or version.rpartition("-")[0] or version


def series(version: str) -> str:
    """``6.12`` of ``6.12.107-1``; empty for what is no kernel's version."""
    match = _SERIES.match(version)
    return f"{match[1]}.{match[2]}" if match else ""


def numbers(text: str) -> tuple[int, ...]:
    """All numbers in a version, by which near ones are found."""
    return tuple(map(int, re.findall(r"\d+", text)))
