"""Words of others in a message of ours: nothing of them is obeyed by a terminal, or parts a line."""

from __future__ import annotations


def visible(text: str) -> str:
    """On one line; characters that are not printed, as Python would write them: ``\\x1b``, ``\\n``."""
    return text if text.isprintable() else "".join(map(_seen, text))


def one_line(text: str, longest: int = 300) -> str:
    """The same, of so many characters at most: what is wrong in a file, with words from it."""
    line = visible(text)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _seen(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def dotted_place(path: tuple[int | str, ...]) -> str:
    """Where in a document, as pydantic says it: ``maps.managed.key``; nothing of it parts a line."""
    return visible(".".join(map(str, path)))
