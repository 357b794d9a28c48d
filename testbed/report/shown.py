"""Text that others wrote, made fit to be shown on a page or in a picture."""

from __future__ import annotations

import re

# What XML 1.0 has no way to say (its section 2.2), not even escaped. A terminal would obey some of it.
_FORBIDDEN = "[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
# The C1 set, and the controls of Unicode's bidirectional algorithm: they rearrange what stands beside them.
_CONTROLS = "[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
_UNPRINTABLE = re.compile(_FORBIDDEN)
_UNSHOWN = re.compile(f"{_FORBIDDEN}|{_CONTROLS}")


def printable(text: str) -> str:
    """Characters that XML forbids as Python would write them: ``\\x1b``."""
    return _UNPRINTABLE.sub(_as_python, text)


def shown(text: str) -> str:
    """Characters that would do something rather than be seen, as Python would write them: ``\\x1b``."""
    return _UNSHOWN.sub(_as_python, text)


def _as_python(found: re.Match[str]) -> str:
    return ascii(found.group())[1:-1]


def cut(text: str, length: int) -> str:
    """At most so many characters, the last one … where some are left out."""
    return text if len(text) <= length else text[: length - 1] + "…"


def on_a_line(text: str, length: int) -> str:
    """The same with what parts lines and words made one space each: a label."""
    return cut(shown(" ".join(text[: 4 * length].split())), length)


def told(text: str, length: int) -> str:
    """A text to be read: what is too long ends with how much more there is."""
    if len(text) <= length:
        return shown(text)
    return f"{shown(text[:length])}… {len(text) - length:,} more characters"
