"""Text from a guest's console, made fit to be shown."""

from __future__ import annotations

import re

# What XML 1.0 has no way to say (its section 2.2), not even escaped. A terminal would obey some of it.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    """Characters that XML forbids as Python would write them: ``\\x1b``."""
    return _FORBIDDEN.sub(lambda found: ascii(found.group())[1:-1], text)
