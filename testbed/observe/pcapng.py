"""Frames as a pcapng file, with what happened besides as comments on them, for Wireshark and tshark.

The format is that of draft-ietf-opsawg-pcapng: a section header, an interface for each link, and an
enhanced packet a frame. scapy's writer has no nanoseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from testbed.errors import file_error
from testbed.observe.capture import Frame

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_MAGIC = 0x1A2B3C4D  # in the byte order of the file
_ETHERNET = 1
_END, _COMMENT, _IF_NAME, _IF_TSRESOL, _USERAPPL = 0, 1, 2, 9, 4
_NANOSECONDS = b"\x09"  # 10^-9 s
_LONGEST = 0xFFFF


def write_pcapng(
    to: Path | BinaryIO,
    frames: Iterable[Frame],
    comments: Mapping[int, Sequence[str]],
    wall_ns: int,
    link_names: Sequence[str],
) -> None:
    """Writes frames in their order. ``comments`` are by a frame's number, from 0; ``link_names`` by link.

    ``wall_ns`` is what CLOCK_REALTIME was ahead of CLOCK_MONOTONIC: a file's times are of the wall clock.
    `file_error` when the file cannot be written; it is left half done then.
    """
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(to.open("wb")) if isinstance(to, Path) else to
            for block in _blocks(frames, comments, wall_ns, link_names):
                stream.write(block)
        except OSError as error:
            raise file_error(f"write {to}", error) from error


def _blocks(
    frames: Iterable[Frame], comments: Mapping[int, Sequence[str]], wall_ns: int, link_names: Sequence[str]
) -> Iterator[bytes]:
    section = struct.pack("<IHHq", _MAGIC, 1, 0, -1)  # version 1.0, of unknown length
    yield _block(_SECTION, section, [(_USERAPPL, b"sockops-testbed")])
    for name in link_names:
        interface = struct.pack("<HHI", _ETHERNET, 0, 0)  # no limit to a frame's length
        yield _block(_INTERFACE, interface, [(_IF_NAME, name.encode()), (_IF_TSRESOL, _NANOSECONDS)])
    for number, frame in enumerate(frames):
        time_ns = frame.time_ns + wall_ns
        packet = struct.pack(
            "<IIIII", frame.link, time_ns >> 32, time_ns & 0xFFFFFFFF, len(frame.data), frame.length
        )
        texts = [(_COMMENT, text.encode(errors="replace")) for text in comments.get(number, ())]
        yield _block(_PACKET, packet + _padded(frame.data), texts)


def _block(kind: int, body: bytes, options: Sequence[tuple[int, bytes]]) -> bytes:
    words = b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in _cut(options))
    if words:
        words += struct.pack("<HH", _END, 0)
    size = 12 + len(body) + len(words)
    return struct.pack("<II", kind, size) + body + words + struct.pack("<I", size)


def _cut(options: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """An option's length is 16 bits; a character is cut off whole."""
    for code, value in options:
        yield code, value if len(value) <= _LONGEST else value[:_LONGEST].decode(errors="ignore").encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
