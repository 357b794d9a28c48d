"""The paths that a compiler leaves in the debug information of an object: whose home it was built in.

They are overwritten where they stand, each by as many bytes: nothing moves, and what is executed is not
touched. The kernel reads them for nothing but to print them.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator

_TEXTS = {".debug_str", ".debug_line_str"}
_BTF = struct.Struct("<HBBIIIII")  # struct btf_header: its texts are at [6] from its end on, [7] bytes
_WHOLE = re.compile(rb"(?<=\0)/[^\0\n]+(?=\0)")  # a text that is a path, whatever is in it
_WITHIN = re.compile(rb"(?<![\w.~/\])-])/(?:[\w.+@~-]+/)+[\w.+@~-]*")
_IN_LINES = re.compile(rb"(?<=\0)(?:/[!-.0-~]+){2,}(?=\0)")  # among the bytes of a line table
_FILE = re.compile(rb"[^/]*\.\w{1,5}")
_SYSTEM = b"/usr/"
_Place = tuple[int, int, tuple[re.Pattern[bytes], ...]]


def without_paths(data: bytes) -> bytes:
    """The object with the directories of its absolute paths blotted out: ``/____/x.c``. ``/usr`` stays.

    What is no ELF file, or has its debug information compressed, comes back as it is.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    changed = bytearray(data)
    try:
        for section in ELFFile(io.BytesIO(data)).iter_sections():
            at, size = section["sh_offset"], section["sh_size"]
            for start, end, patterns in _texts(section.name, at, size, data):
                text = b"\0" + data[start:end]
                for pattern in patterns:
                    text = pattern.sub(lambda found: _blotted(found[0]), text)
                changed[start:end] = text[1:]
    except (ELFError, ValueError, KeyError, struct.error):
        return data  # it would not load either
    return bytes(changed)


def _texts(name: str, at: int, size: int, data: bytes) -> Iterator[_Place]:
    """Where texts stand in a section, and what a path looks like there."""
    if name in _TEXTS:
        yield at, at + size, (_WHOLE, _WITHIN)
    elif name == ".strtab":  # its file symbols
        yield at, at + size, (_WHOLE,)
    elif name == ".debug_line":
        yield at, at + size, (_IN_LINES,)
    elif name == ".BTF":
        header = _BTF.unpack_from(data, at)
        start = at + header[3] + header[6]
        yield start, min(start + header[7], at + size), (_WHOLE, _WITHIN)


def _blotted(path: bytes) -> bytes:
    if path.startswith(_SYSTEM):
        return path
    directory, _, last = path.rpartition(b"/")
    kept = last if _FILE.fullmatch(last) else b"_" * len(last)
    return b"/" + b"_" * max(0, len(directory) - 1) + (b"/" if directory else b"") + kept
