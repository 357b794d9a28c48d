"""What is not worth a mutant: lines that are no code of the programs, and changes that cannot compile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_NAME = re.compile(r"[A-Za-z_]\w*")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"')
_OTHER_LOADER = re.compile(r"^\s*#\s*if(?:def\s+|\s+defined\W+)TESTBED_BCC\b")
_CONDITION = re.compile(r"^\s*#\s*(if|else|elif|endif)")
_DEFINE = re.compile(r"^\s*#\s*define\s+\w+(?:\([^)]*\))?\s+\S")
_FRAME = re.compile(r"^\s*#\s*define\s+(?:LAYOUT|LICENSE|PROGRAM|KEEP)\b")
_NO_CODE = re.compile(r"^\s*(?:#|_Static_assert\b|LAYOUT\(|LICENSE\(|PROGRAM\(|[{}]+;?$|$)")
_LOOP = re.compile(r"\b(?:for|while|switch)\b")
_JUMP = re.compile(r"\n\s*(?:break|continue);\s*$")
_BRACKETS = "()[]{}"


def code_lines(lines: list[str]) -> dict[int, bool]:
    """The lines (from 1) that programs are made of: in functions, structs and macros, and variables.

    Each with whether it is within a loop or a switch. Left out are directives, signatures,
    assertions of layouts, and the half that is for the other loader.
    """
    found: dict[int, bool] = {}
    blocks: list[bool] = []
    for number, line in _of_this_loader(lines):
        macro = bool(_DEFINE.match(line)) or (number > 1 and lines[number - 2].endswith("\\"))
        variable = not blocks and line[:1].isalpha() and line.endswith(";")
        if (macro and not _FRAME.match(line)) or (
            not macro and (blocks or variable) and not _NO_CODE.match(line)
        ):
            found[number] = any(blocks)
        _follow(line, blocks)
    return found


def _follow(line: str, blocks: list[bool]) -> None:
    for character in _STRING.sub("", line):
        if character == "{":
            blocks.append(bool(_LOOP.search(line)))
        elif character == "}" and blocks:
            blocks.pop()


def _of_this_loader(lines: list[str]) -> Iterator[tuple[int, str]]:
    other: list[bool] = []  # of each condition that is open
    for number, line in enumerate(lines, 1):
        if match := _CONDITION.match(line):
            if match[1] == "if":
                other.append(bool(_OTHER_LOADER.match(line)))
            elif match[1] == "endif":
                other.pop()
            elif other:
                other[-1] = False
        elif not any(other):
            yield number, line


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """Every word that stands in a text."""
    return frozenset(name for text in texts for name in _NAME.findall(text))


def is_noise(old: str, new: str, known: frozenset[str], in_loop: bool) -> bool:
    """Whether a change is none to the program, or none that any compiler takes.

    That is: of words in quotes alone; a name that there is not (``ipv4`` with another digit); a
    bracket without its other; ``break`` where there is nothing to leave.
    """
    if _bare(old) == _bare(new) or not _names(new) <= known:
        return True
    if any(
        old.count(bracket) - old.count(other) != new.count(bracket) - new.count(other)
        for bracket, other in _pairs()
    ):
        return True
    return not in_loop and bool(_JUMP.search(new))


def _bare(line: str) -> str:
    return "".join(_STRING.sub('""', line).split())


def _names(line: str) -> frozenset[str]:
    return names_in([_STRING.sub('""', line)])


def _pairs() -> Iterator[tuple[str, str]]:
    return zip(_BRACKETS[::2], _BRACKETS[1::2], strict=True)
